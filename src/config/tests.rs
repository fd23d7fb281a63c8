//! Settings from flags, environment and file together.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;

use super::{Flags, Settings};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn flags(&self, file: &str) -> Flags {
        let path = self.0.path().join("rezcache.toml");
        std::fs::write(&path, file).unwrap();
        let mut flags = Flags::default();
        flags.common.config = Some(path);
        flags.common.data_dir = Some(PathBuf::from("/nowhere"));
        flags
    }
}

fn lines(flags: &Flags) -> Vec<String> {
    let problems = Settings::load(flags).expect_err("problems");
    let file = format!("{}:", flags.common.config.as_ref().unwrap().display());
    problems.lines().map(|line| line.replace(&file, "")).collect()
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|&text| text.to_owned()).collect()
}

#[test]
fn an_empty_file_leaves_the_defaults() {
    let folder = Folder::new();
    let settings = Settings::load(&folder.flags("")).unwrap();
    assert_eq!(settings.proxy.listen.to_string(), "127.0.0.1:9080");
    assert_eq!(settings.proxy.control.unwrap().to_string(), "127.0.0.1:9079");
    assert!(!settings.proxy.listen_given && !settings.proxy.control_given);
    assert_eq!(settings.proxy.cache_bytes, 10 << 30);
    assert_eq!(settings.replay.passes, 2);
}

#[test]
fn every_problem_is_reported_at_once() {
    let folder = Folder::new();
    let mut flags = folder.flags(
        "data_dirr = 1\n[proxy]\nlisten = \"0.0.0.0:9080\"\ncache_size = \"ten\"\nports = []\n\
         [[grid]]\nname = \"a b\"\nurl = \"gopher://x/\"\nallow = [\"10.0.0.0/33\"]\n[[grid]]\nname = \"n\"\n\
         [replay]\npasses = 0\n",
    );
    flags.proxy.central = texts(&["nobody"]);
    flags.replay.link = Some("fast".into());
    assert_eq!(
        lines(&flags),
        [
            "5: unknown key proxy.ports; known are listen, control, cache_server, token_file, resolver, upload, upload_limit, cache_size, memory_size, chat_commands",
            "1: unknown key data_dirr; known are data_dir, log_format, verbose, proxy, replay, run, serve, director, scaling, alerts, node, grid",
            "11: grid.url is missing",
            "7: grid.name: \"a b\" is no name for a grid: use up to 64 letters, digits, dots and dashes",
            "8: grid.url: \"gopher://x/\" is not an address such as http://login.example.org/",
            "9: grid.allow: \"10.0.0.0/33\" is not an address block such as 10.20.0.0/16",
            "--central (or REZCACHE_CENTRAL): no grid is named \"nobody\"; there is none",
            "3: proxy.listen: 0.0.0.0:9080 can be reached from other machines; rezcache listens on loopback only, such as 127.0.0.1:9080",
            "4: proxy.cache_size: \"ten\" is not a size such as 10GiB, 500MB or 1000000",
            "13: replay.passes: \"0\" is not a number from 1 to 100",
            "--link (or REZCACHE_LINK): \"fast\": a link is a rate and a delay, such as 20mbit,40ms (units: kbit, mbit, gbit; ms, s)",
        ]
    );
}

#[test]
fn a_file_that_is_no_toml_is_told_by_line() {
    let folder = Folder::new();
    let flags = folder.flags("[proxy]\nlisten = \n[[grid]\n");
    let problems = lines(&flags);
    assert!(problems.iter().any(|line| line.starts_with("2: ")), "{problems:?}");
}

#[test]
fn flags_win_over_the_file_and_a_known_grid_keeps_the_rest() {
    let folder = Folder::new();
    let mut flags = folder.flags(
        "[proxy]\nlisten = \"127.0.0.1:1\"\nmemory_size = 7\n\
         [[grid]]\nname = \"home\"\nurl = \"old.example\"\nallow = [\"10.0.0.0/8\"]\ncentral = true\n",
    );
    flags.proxy.listen = Some("127.0.0.2:8000".into());
    flags.proxy.grids = texts(&["home=https://new.example:443/login?x=y", "127.0.0.1:9000"]);
    let proxy = Settings::load(&flags).unwrap().proxy;
    assert_eq!((proxy.listen.to_string(), proxy.memory_bytes), ("127.0.0.2:8000".into(), 7));
    assert_eq!(proxy.control.unwrap().to_string(), "127.0.0.2:7999");
    let [home, local] = &proxy.grids[..] else { panic!("{:?}", proxy.grids) };
    assert_eq!(home.uri, "https://new.example:443/login?x=y");
    assert_eq!((&home.allow[..], home.central), (&texts(&["10.0.0.0/8"])[..], true));
    assert_eq!(
        (local.name.as_str(), local.uri.to_string()),
        ("127.0.0.1:9000", "http://127.0.0.1:9000/".into())
    );

    flags.proxy.grid_allow = texts(&["home=192.168.0.0/16", "home=fd00::/8"]);
    let proxy = Settings::load(&flags).unwrap().proxy;
    assert_eq!(proxy.grids[0].allow, ["192.168.0.0/16", "fd00::/8"]);
}

#[test]
fn second_life_is_central_and_its_asset_host_is_known() {
    let folder = Folder::new();
    let mut flags = folder.flags("");
    flags.proxy.grids = texts(&["https://login.agni.lindenlab.com/cgi-bin/login.cgi"]);
    let grid = &Settings::load(&flags).unwrap().proxy.grids[0];
    assert_eq!((grid.name.as_str(), grid.central), ("agni", true));
    assert_eq!(grid.asset_host.as_ref().unwrap().host(), Some("asset-cdn.glb.agni.lindenlab.com"));
}

#[test]
fn one_grid_twice_is_refused() {
    let folder = Folder::new();
    let mut flags = folder.flags("");
    flags.proxy.grids = texts(&["a=http://x.example/", "b=https://X.example:443/"]);
    assert_eq!(lines(&flags), ["--grid (or REZCACHE_GRID): a and b are one grid, or have one name"]);
}

#[test]
fn a_password_in_an_address_is_refused_and_not_repeated() {
    let folder = Folder::new();
    let mut flags = folder.flags("");
    flags.proxy.grids = texts(&["http://me:hunter2@grid.example/"]);
    let problems = lines(&flags);
    assert!(problems[0].contains("must not hold a user name") && !problems[0].contains("hunter2"));
}

#[test]
fn a_catalog_is_named_by_its_address_whose_password_is_not_repeated() {
    use crate::catalog::Place;
    let folder = Folder::new();
    let catalog = |flags: &Flags| Settings::load(flags).unwrap().serve.into_config("/data".as_ref()).catalog;
    let mut flags = folder.flags("");
    assert_eq!(catalog(&flags), Place::Sqlite("/data/store/catalog.sqlite".into()));
    flags.serve.store = Some("memory:".into());
    assert_eq!(catalog(&flags), Place::Memory);
    let mut flags = folder.flags("[serve]\ncatalog = \"postgres://me:hunter2@127.0.0.1/cache\"\n");
    assert!(matches!(catalog(&flags), Place::Postgres(_)));
    flags.serve.catalog = Some("postgres://me:hunter2@db.example/cache?sslmode=prefer".into());
    let problems = lines(&flags);
    assert!(problems[0].contains("--catalog") && problems[0].contains("sslrootcert"), "{problems:?}");
    assert!(!format!("{problems:?} {:?}", Settings::load(&flags)).contains("hunter2"));
}

#[test]
fn one_voice_is_enough_only_where_no_strangers_come() {
    let folder = Folder::new();
    let quorum = |lines: &str| {
        let flags = folder.flags(&format!("[serve]\n{lines}"));
        Settings::load(&flags).unwrap().serve.into_config("/data".as_ref()).confirmations
    };
    assert_eq!(quorum(""), 1);
    assert_eq!(quorum("listen = \"10.0.0.5:8443\"\n"), 1);
    assert_eq!(quorum("listen = \"203.0.113.5:8443\"\n"), 2);
    // Behind a cloud's gateway the world comes to a private address.
    assert_eq!(quorum("listen = \"10.0.0.5:8443\"\nabuse_contact = \"me@example.org\"\n"), 2);
    assert_eq!(quorum("enroll = true\n"), 2);
    assert_eq!(quorum("enroll = true\nconfirmations = 1\n"), 1, "the operator's word");
}

#[test]
fn files_named_in_the_file_lie_beside_it() {
    let folder = Folder::new();
    let flags =
        folder.flags("[[grid]]\nurl = \"grid.example\"\nca_file = \"ca.pem\"\n[replay]\nsave = \"out\"\n");
    let problems = lines(&flags);
    assert!(problems[0].contains("cannot read") && problems[0].contains("ca.pem"), "{problems:?}");
    std::fs::write(folder.0.path().join("ca.pem"), "not one").unwrap();
    assert!(lines(&flags)[0].contains("holds no certificate"));
    std::fs::write(folder.0.path().join("ca.pem"), "-----BEGIN CERTIFICATE-----\n").unwrap();
    let settings = Settings::load(&flags).unwrap();
    assert_eq!(settings.proxy.grids[0].ca_file.as_ref().unwrap(), &folder.0.path().join("ca.pem"));
    assert_eq!(settings.replay.save.unwrap(), folder.0.path().join("out"));
}

#[test]
fn who_is_to_blame_decides_between_wrong_usage_and_failure() {
    let folder = Folder::new();
    let flags = folder.flags("nonsense = 1");
    assert!(!Settings::load(&flags).unwrap_err().are_usage());
    let folder = Folder::new();
    let mut flags = folder.flags("");
    flags.proxy.listen = Some("nonsense".into());
    assert!(Settings::load(&flags).unwrap_err().are_usage());
}

#[test]
fn sizes_are_read_with_their_units() {
    use super::value::size;
    for (text, bytes) in [("0", 0), ("1000", 1000), ("10GiB", 10 << 30), ("5 MB", 5_000_000), ("1k", 1024)] {
        assert_eq!(size(text), Ok(bytes), "{text}");
    }
    for text in ["", "GiB", "-1", "1.5GiB", "1 parsec", "99999999999TiB"] {
        assert!(size(text).is_err(), "{text}");
    }
}

#[test]
fn uploads_need_a_clear_word_and_a_sensible_rate() {
    for (word, answer) in [("yes", Some(true)), ("true", Some(true)), ("no", Some(false)), ("perhaps", None)]
    {
        assert_eq!(super::value::yes_or_no(word).ok(), answer, "{word}");
    }
    for (text, rate) in [
        ("1mbit", Some(Some(125_000))),
        ("500 kbit", Some(Some(62_500))),
        ("2Gbit", Some(Some(250_000_000))),
        ("none", Some(None)),
        ("0mbit", None),
        ("7kbit", None),
        ("1000", None),
        ("99999999999999gbit", None),
        ("", None),
    ] {
        assert_eq!(super::value::rate(text).ok(), rate, "{text}");
    }
}

#[test]
fn the_shared_cache_is_an_address_a_join_line_or_what_was_joined() {
    let folder = Folder::new();
    let of = |server: &str| {
        let mut flags = folder.flags("");
        flags.proxy.service.cache_server = Some(server.into());
        Settings::load(&flags).map(|settings| settings.proxy)
    };
    let token = "e30.eyJzdWIiOiJqb2luLXB1cGlsIiwicmlnaHRzIjoicmVhZCJ9.c2ln";
    let line = format!("rezcache://192.168.1.5:8443/#pin=sha256:{}&token={token}", "ab".repeat(32));
    let auto = of("auto").unwrap();
    assert!(auto.service.is_none() && auto.lan.is_some_and(|lan| lan.line.is_none()));
    let joined = of(&line).unwrap();
    assert!(joined.service.is_none());
    assert_eq!(joined.lan.unwrap().line.unwrap().reveal(), line);
    assert!(of("https://cache.example.org").unwrap().service.is_some());
    // What is wrong with a secret is said without it.
    let broken = of(&line.replace("ab", "zz")).unwrap_err().to_string();
    assert!(broken.contains("not whole") && !broken.contains(token), "{broken}");

    // A replay is a matter of one server, and a join line has its token.
    let mut flags = folder.flags("");
    flags.replay_service.cache_server = Some("auto".into());
    assert!(lines(&flags)[0].contains("join line"));
    flags.replay_service.cache_server = Some(line);
    assert!(Settings::load(&flags).unwrap().replay.service.unwrap().join.is_some());
    let mut flags = folder.flags("");
    flags.proxy.service.cache_server = Some("auto".into());
    flags.proxy.service.token_file = Some(PathBuf::from("token"));
    assert!(lines(&flags)[0].contains("its own token"));
}

#[test]
fn a_households_server_listens_at_home_and_lets_in_who_has_the_line() {
    let folder = Folder::new();
    let lan = |file: &str| Settings::load(&folder.flags(&format!("[serve]\nlan = true\n{file}")));
    let config = lan("").unwrap().serve.into_config(std::path::Path::new("/data"));
    assert!(config.members && !config.open_access && !config.plain_http && !config.enroll);
    assert!(lan("listen = \"192.168.1.5:9000\"\nteacher_writes = true\n").is_ok());
    assert!(lan("listen = \"0.0.0.0:9000\"\n").is_ok(), "all private addresses, another port");
    for wrong in ["listen = \"203.0.113.5:8443\"", "plain_http = true", "open_access = true", "enroll = true"]
    {
        assert!(lan(&format!("{wrong}\n")).is_err(), "{wrong}");
    }
    let alone = Settings::load(&folder.flags("[serve]\nteacher_writes = true\n"));
    assert!(alone.unwrap_err().to_string().contains("--lan"));
}

#[test]
fn a_director_is_told_of_every_mistake_and_has_sensible_defaults() {
    let folder = Folder::new();
    let director = |text: &str| Settings::load(&folder.flags(text)).map(|settings| settings.director);
    let usual = director("").unwrap();
    assert!(usual.zone.is_none() && usual.nodes.is_empty() && usual.alerts.webhook.is_none());
    assert_eq!((usual.probe_interval.as_secs(), usual.ttl.as_secs()), (2, 5));
    let whole = director(
        "[director]\nzone = \"Cache.example.org\"\nstore = \"file:///srv/store\"\nns = [\"ns1.example.org.\"]\nttl_s = 7\n\
         [scaling]\nprovisioner = \"process\"\naddresses = [\"127.0.0.2:8443\"]\nmaximum = 3\nhigh = 0.9\n\
         [alerts]\nwebhook = \"https://chat.example.org/SECRET\"\nmail_server = \"mail.example.org\"\n\
         mail_from = \"a@example.org\"\nmail_to = [\"b@example.org\"]\n\
         [[node]]\nname = \"otter\"\nurl = \"https://192.0.2.7:8443/\"\naddress = \"192.0.2.8\"\naddresses = [\"2001:db8::7\"]\n",
    )
    .unwrap();
    assert_eq!(whole.zone.as_deref(), Some("cache.example.org."));
    let node = &whole.nodes[0];
    assert_eq!(
        (node.name.as_str(), node.url.as_str(), node.addresses.len()),
        ("otter", "https://192.0.2.7:8443", 2)
    );
    assert_eq!((whole.scaling.maximum, whole.ttl.as_secs()), (3, 7));
    assert_eq!(
        whole.scaling.ttl.as_secs(),
        7 + 2 * 2,
        "other directors name it for as long as they do not know"
    );
    assert!(matches!(&whole.provisioner, super::ProvisionerSettings::Process(at) if at.len() == 1));
    let mail = whole.alerts.mail.clone().unwrap();
    assert_eq!(
        (mail.host.as_str(), mail.port, mail.tls),
        ("mail.example.org", 587, crate::director::MailTls::StartTls)
    );
    assert!(!format!("{whole:?}").contains("SECRET"));
    assert!(
        matches!(whole.catalog(), Ok(crate::catalog::Place::Sqlite(path)) if path.ends_with("store/catalog.sqlite"))
    );
    for (text, told) in [
        ("[director]\nzone = \"no dots\"", "no name"),
        ("[director]\nttl_s = 0", "1 to 300"),
        ("[director]\nprobe_interval_s = 0.5", "1 to 60"),
        ("[director]\npins = [\"sha256:12\"]", "no pin"),
        ("[director]\ndns = 1", "unknown key director.dns"),
        ("[scaling]\nminimum = 9", "maximum"),
        ("[scaling]\nhigh = 0.5", "below high"),
        ("[scaling]\nhigh = nan", "share"),
        ("[scaling]\nprovisioner = \"cloud\"", "none of"),
        ("[scaling]\nprovisioner = \"process\"", "scaling.addresses"),
        ("[scaling]\nprovisioner = \"command\"", "scaling.command"),
        ("[scaling]\nprovisioner = \"aws-asg\"", "aws_group"),
        ("[alerts]\nmail_server = \"mail.example.org\"", "mail_from"),
        ("[alerts]\nwebhook = \"SECRET words\"", "webhook"),
        ("[[node]]\nname = \"otter\"", "no url"),
        ("[[node]]\nname = \"o t\"\nurl = \"https://x:1\"", "for people"),
        ("[[node]]\nname = \"otter\"\nurl = \"otter:8443\"", "no node's url"),
        (
            "[[node]]\nname = \"a\"\nurl = \"https://x:1\"\n[[node]]\nname = \"a\"\nurl = \"https://y:1\"",
            "another node",
        ),
    ] {
        let wrong = director(text).unwrap_err().to_string();
        assert!(wrong.contains(told), "{text}: {wrong}");
        assert!(!wrong.contains("SECRET"), "{wrong}");
    }
}

#[test]
fn a_name_server_is_an_address_and_needs_a_name_to_be_asked_for() {
    use crate::client::resolve::Resolver;
    let server = |text: &str| super::value::name_server(text).map(|server| server.to_string());
    for (text, read) in [
        ("192.0.2.53", Some("192.0.2.53:53")),
        ("192.0.2.53:5353", Some("192.0.2.53:5353")),
        ("2001:db8::53", Some("[2001:db8::53]:53")),
        ("[2001:db8::53]", Some("[2001:db8::53]:53")),
        ("[2001:db8::53]:5353", Some("[2001:db8::53]:5353")),
        ("ns1.example.org", None),
        ("192.0.2.53:0", None),
        ("0.0.0.0", None),
        ("", None),
    ] {
        assert_eq!(server(text).ok().as_deref(), read, "{text}");
    }
    let folder = Folder::new();
    let file = "[proxy]\ncache_server = \"https://cache.example.org\"\nresolver = \"192.0.2.53\"\n";
    let resolver = |flags: &Flags| Settings::load(flags).unwrap().proxy.service.unwrap().address.resolver;
    let mut flags = folder.flags(file);
    assert_eq!(resolver(&flags), Resolver::Server("192.0.2.53:53".parse().unwrap()));
    flags.proxy.service.resolver = Some("127.0.0.1:5353".into());
    assert_eq!(resolver(&flags), Resolver::Server("127.0.0.1:5353".parse().unwrap()));
    flags.replay_service.cache_server = Some("https://cache.example.org".into());
    flags.replay_service.resolver = Some("127.0.0.1:5354".into());
    let replay = Settings::load(&flags).unwrap().replay.service.unwrap();
    assert_eq!(replay.address.resolver, Resolver::Server("127.0.0.1:5354".parse().unwrap()));
    let mut flags = folder.flags("");
    flags.proxy.service.resolver = Some("127.0.0.1:5353".into());
    assert!(lines(&flags)[0].contains("--cache-server"));
    flags.proxy.service.cache_server = Some("auto".into());
    assert!(lines(&flags)[0].contains("at home"));
    let wrong = folder.flags("[proxy]\ncache_server = \"https://cache.example.org\"\nresolver = \"ns1\"\n");
    assert!(
        lines(&wrong)[0].contains("3: ") && lines(&wrong)[0].contains("name server"),
        "{:?}",
        lines(&wrong)
    );
}
