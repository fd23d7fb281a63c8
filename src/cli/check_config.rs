//! `rezcache check-config`: every problem, or what the configuration comes to.

use std::fmt::Write as _;
use std::path::Path;

use clap::Args;

use super::{Outcome, print};
use crate::catalog::Place;
use crate::config::{BoardFlags, DirectorSettings, LogFormat, Problems, ProxyFlags, ReplayFlags, Settings};
use crate::proxy::LanConfig;

#[derive(Args, Debug)]
#[command(after_help = super::examples::CHECK_CONFIG)]
pub(super) struct Arguments {
    #[command(flatten, next_help_heading = "Options of proxy")]
    pub(super) proxy: ProxyFlags,
    #[command(flatten, next_help_heading = "Options of replay")]
    pub(super) replay: ReplayFlags,
    #[command(flatten, next_help_heading = "Options of director")]
    pub(super) board: BoardFlags,
}

/// Loading has already found what is wrong, but not what a director lacks: whoever runs none lacks nothing.
pub(super) fn run(settings: &Settings) -> anyhow::Result<Outcome> {
    let missing = settings.director.missing();
    if settings.director.in_file && !missing.is_empty() {
        return Err(Problems::missing(missing, false).into());
    }
    print(&summary(settings))?;
    Ok(Outcome::Done)
}

fn summary(settings: &Settings) -> String {
    let Settings { file, data_dir, log_format, verbose, proxy, run, replay, serve, .. } = settings;
    let path = |path: Option<&Path>| path.map_or_else(|| "none".into(), |path| path.display().to_string());
    let control = proxy.control.map_or_else(|| "off".into(), |control| control.to_string());
    let format = match log_format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    let mut text = format!(
        "ok\nfile         {}\ndata_dir     {}\nlog_format   {format}\nverbose      {verbose}\n\
         proxy.listen       {}\nproxy.control      {control}\nproxy.cache_size   {}\nproxy.memory_size  {}\n\
         proxy.cache_server {}\nproxy.upload       {}\nproxy.upload_limit {}\n\
         proxy.chat_commands {}\n",
        path(file.as_deref()),
        data_dir.display(),
        proxy.listen,
        proxy.cache_bytes,
        proxy.memory_bytes,
        match (&proxy.service, &proxy.lan) {
            (Some(service), _) => service.address.to_string(),
            (None, Some(LanConfig { line: Some(line), .. })) => {
                format!("{} of a join line", line.address)
            }
            (None, Some(_)) => "those that were joined".into(),
            (None, None) => "none".into(),
        },
        match proxy.upload {
            Some(true) => "yes",
            Some(false) => "no",
            None => "the first run asks",
        },
        proxy.upload_rate.map_or_else(|| "none".into(), |rate| format!("{} bit/s", rate.saturating_mul(8))),
        proxy.chat_commands,
    );
    for grid in &proxy.grids {
        let assets = grid.asset_host.as_ref().map_or_else(|| "none".into(), ToString::to_string);
        let allow = if grid.allow.is_empty() { "none".into() } else { grid.allow.join(", ") };
        let _ = write!(
            text,
            "grid {}\n  url         {}\n  allow       {allow}\n  ca_file     {}\n  asset_host  {assets}\n  central     {}\n",
            grid.name,
            grid.uri,
            path(grid.ca_file.as_deref()),
            grid.central,
        );
    }
    if proxy.grids.is_empty() {
        text.push_str("no grid: `rezcache proxy` needs --grid or a [[grid]] section\n");
    }
    let _ = write!(
        text,
        "run.viewer       {}\nrun.viewer_kind  {}\nrun.strict       {}\nrun.login_grace  {} s\n",
        run.viewer.as_deref().unwrap_or("the first run asks"),
        run.viewer_kind.map_or("by its name", crate::viewers::Kind::word),
        run.strict,
        run.login_grace.as_secs(),
    );
    let link = replay.link.map_or_else(
        || "none".into(),
        |link| format!("{} bit/s, {} ms", link.bits_per_second, link.delay.as_millis()),
    );
    let _ = write!(
        text,
        "replay.passes    {}\nreplay.save      {}\nreplay.link      {link}\nreplay.realtime  {}\n",
        replay.passes,
        path(replay.save.as_deref()),
        replay.realtime,
    );
    let _ = write!(
        text,
        "serve.lan          {}{}\nserve.listen       {}\nserve.store        {}\nserve.open_access  {}\n\
         serve.plain_http   {}\n",
        serve.lan,
        if serve.teacher_writes { ", teacher writes" } else { "" },
        if serve.lan && !serve.listen_given {
            "all private addresses".to_owned()
        } else {
            serve.listen.to_string()
        },
        serve.store.as_deref().unwrap_or("in data_dir"),
        serve.open_access,
        serve.plain_http,
    );
    let keys: Vec<String> = serve.token_keys.iter().map(|path| path.display().to_string()).collect();
    let list = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let _ = write!(
        text,
        "serve.token_keys       {}\nserve.audience         {}\nserve.enroll           {}\n\
         serve.trusted_tenants  {}\nserve.abuse_contact    {}\nserve.confirmations    {}\n",
        list(&keys),
        serve.audience,
        serve.enroll,
        list(&serve.trusted_tenants),
        serve.abuse_contact.as_deref().unwrap_or("none"),
        serve.confirmations.map_or_else(|| "as listen suggests".into(), |number| number.to_string()),
    );
    for grid in serve.grids.iter().filter(|grid| grid.publish) {
        let origins = if grid.central { "central" } else { "distributed" };
        let _ = writeln!(text, "published {}  {origins}, hosts {}", grid.id, list(&grid.asset_hosts));
    }
    director(&mut text, &settings.director);
    text
}

fn director(text: &mut String, director: &DirectorSettings) {
    let Some(zone) = &director.zone else {
        text.push_str("no zone: `rezcache director` needs --zone or a [director] section\n");
        return;
    };
    let status = director.status_listen.map_or_else(|| "off".into(), |status| status.to_string());
    let (ways, alerts) = (director.provisioner.word(), &director.alerts);
    let mail =
        alerts.mail.as_ref().map_or_else(|| "none".into(), |mail| format!("{}:{}", mail.host, mail.port));
    // Never as it was written: it may hold a password.
    let catalog = match director.catalog() {
        Ok(Place::Memory) => "in memory".into(),
        Ok(Place::Sqlite(path)) => format!("SQLite, {}", path.display()),
        Ok(Place::Postgres(_)) => "PostgreSQL".into(),
        Err(_) => "none".to_owned(),
    };
    let _ = write!(
        text,
        "director.ns             {}\ndirector.catalog        {catalog}\ndirector.token          {}\n\
         director.pins           {}\ndirector.server_name    {}\n",
        director.name_servers.join(", "),
        if director.token.is_some() { "yes" } else { "no: loads are not seen, and nodes not told to drain" },
        if director.pins.is_empty() { "none".to_owned() } else { director.pins.join(", ") },
        director.server_name.as_deref().unwrap_or("by pin, or else the zone"),
    );
    let _ = write!(
        text,
        "director.zone           {zone}\ndirector.dns_listen     {}\ndirector.status_listen  {status}\n\
         director.probe_interval {} s\ndirector.ttl            {} s\n\
         scaling.provisioner     {ways}, {} to {} nodes\nalerts.webhook          {}\nalerts.mail             {mail}\n",
        director.dns_listen,
        director.probe_interval.as_secs(),
        director.ttl.as_secs(),
        director.scaling.minimum,
        director.scaling.maximum,
        if alerts.webhook.is_some() { "set" } else { "none" },
    );
    for node in &director.nodes {
        let _ = writeln!(text, "node {}  {}", node.name, node.url);
    }
}
