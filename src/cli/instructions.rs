//! What to start each kind of viewer with, once the proxy listens.
//!
//! Source: Firestorm, newview/fsgridhandler.cpp (`--grid` with an address, `get_grid_info`); Second Life
//! viewer (Nov 2025), newview/app_settings/cmd_line.xml (`--grid` with a key name; no `--loginuri`) and
//! newview/llviewernetwork.cpp (the keys of grids.xml).

use std::fmt;
use std::net::SocketAddr;

use serde::Serialize;

use crate::proxy::GridConfig;

/// The text for people (`Display`), or one JSON line for programs (`Serialize`).
#[derive(Debug, Serialize)]
pub(super) struct Ready {
    version: &'static str,
    /// Address of rezcache's own page.
    control: Option<SocketAddr>,
    /// Address of the same page with the key that its buttons need.
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<String>,
    /// The same, when assets are uploaded, which can be paused there.
    #[serde(skip_serializing_if = "Option::is_none")]
    uploads: Option<String>,
    /// The shared cache is one at home.
    #[serde(skip)]
    household: bool,
    grids: Vec<Grid>,
}

#[derive(Debug, Serialize)]
struct Grid {
    name: String,
    listen: SocketAddr,
    login_uri: String,
    grid_key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    viewerasset: Option<String>,
}

impl Ready {
    pub(super) fn new(
        grids: &[GridConfig],
        addresses: &[SocketAddr],
        control: Option<SocketAddr>,
        token: &str,
    ) -> Self {
        let grid = |(grid, &listen): (&GridConfig, &SocketAddr)| Grid {
            name: grid.name.clone(),
            listen,
            login_uri: format!("http://{listen}/"),
            grid_key: grid_key(&grid.name),
            viewerasset: grid
                .asset_host
                .is_some()
                .then(|| format!("http://{listen}/asset/{token}/{}", grid.name)),
        };
        let grids = grids.iter().zip(addresses).map(grid).collect();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            control,
            page: None,
            uploads: None,
            household: false,
            grids,
        }
    }

    /// The page's buttons work for who knows this token; uploads are on, or shared caches at home are looked for.
    pub(super) fn page(&mut self, token: &str, uploads: bool, household: bool) {
        self.page = self.control.map(|control| page_address(control, token));
        self.uploads = self.page.clone().filter(|_| uploads);
        self.household = household;
    }
}

/// The address of the page with its key, which stands where no server sees it.
pub(super) fn page_address(control: SocketAddr, token: &str) -> String {
    format!("http://{control}/#{token}")
}

/// A key for grids.xml that no built-in grid has.
pub(super) fn grid_key(name: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { '-' };
    format!("rezcache-{}", name.chars().map(safe).collect::<String>().trim_matches('-'))
}

impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "rezcache {} is running; end it with Ctrl-C.", self.version)?;
        match (&self.page, self.control) {
            (Some(page), _) => writeln!(f, "Is it working, the numbers, and what can be changed: {page}")?,
            (None, Some(control)) => writeln!(f, "Is it working, and the numbers: http://{control}/")?,
            (None, None) => {}
        }
        if self.household {
            writeln!(f, "Join a shared cache at home, and pause what you give to it, there.")?;
        } else if self.uploads.is_some() {
            writeln!(f, "Public assets are shared with the cache server; that can be paused there.")?;
        }
        for grid in &self.grids {
            write!(f, "\n{grid}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Grid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, login_uri, grid_key: key, .. } = self;
        writeln!(f, "{name} is at {login_uri}")?;
        writeln!(f, "  Firestorm:        start it with   --grid {login_uri}")?;
        writeln!(f, "                    or add {login_uri} under Preferences > Opensim")?;
        writeln!(f, "  official viewer:  start it with   --grid {key}")?;
        writeln!(f, "                    after putting this into grids.xml in its user_settings folder,")?;
        writeln!(f, "                    within <llsd><map> … </map></llsd>:")?;
        writeln!(f, "      <key>{key}</key><map>")?;
        writeln!(f, "      <key>keyname</key><string>{key}</string>")?;
        writeln!(f, "      <key>label</key><string>{name} via rezcache</string>")?;
        writeln!(f, "      <key>login_uri</key><array><string>{login_uri}</string></array>")?;
        writeln!(f, "      <key>login_page</key><string>{login_uri}</string>")?;
        writeln!(f, "      </map>")?;
        writeln!(f, "  older viewers,")?;
        writeln!(f, "  text viewers:     start them with --loginuri {login_uri}")?;
        if let Some(url) = &self.viewerasset {
            writeln!(
                f,
                "  assets only:      start any viewer, logging in as always, with the environment variable"
            )?;
            writeln!(f, "                    VIEWERASSET={url}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ready(asset_host: Option<&str>) -> Ready {
        let grid = GridConfig {
            name: "My.Grid:9000".into(),
            uri: "http://my.grid:9000/".parse().unwrap(),
            listen: "127.0.0.1:0".parse().unwrap(),
            allow: Vec::new(),
            ca_file: None,
            asset_host: asset_host.map(|uri| uri.parse().unwrap()),
            central: false,
            id: None,
        };
        let control = Some("127.0.0.1:9079".parse().unwrap());
        Ready::new(&[grid], &["127.0.0.1:9080".parse().unwrap()], control, "0123")
    }

    #[test]
    fn every_kind_of_viewer_finds_its_line() {
        let text = ready(None).to_string();
        for needed in [
            "http://127.0.0.1:9079/",
            "--grid http://127.0.0.1:9080/\n",
            "--grid rezcache-my.grid-9000\n",
            "<key>keyname</key><string>rezcache-my.grid-9000</string>",
            "--loginuri http://127.0.0.1:9080/\n",
        ] {
            assert!(text.contains(needed), "{needed} is not in\n{text}");
        }
        assert!(!text.contains("0123"), "the token is shown only where it is needed");
    }

    #[test]
    fn with_an_asset_host_there_is_the_address_for_viewerasset() {
        let text = ready(Some("http://assets.example/")).to_string();
        assert!(text.contains("VIEWERASSET=http://127.0.0.1:9080/asset/0123/My.Grid:9000\n"), "{text}");
    }
}
