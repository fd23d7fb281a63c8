//! What is wrong with the grid, the cache server, or the way to them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rezcache::checks::Outcome::{Failed, Ok, Skipped, Warning};
use rezcache::client::joined;
use rezcache::director::dns::{DnsServer, Zone};
use rezcache::fleet::answers::{Answers, Member};
use rezcache::node::Node;
use rezcache::token;
use rezcache::token::join::JoinLine;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;

use super::{Desk, Found, everything, unused};
use crate::lan::Home;
use crate::service::config;
use crate::support::fake_grid::Reply;
use crate::support::operator::{Operator, now};
use crate::support::tls::{Authority, TlsFront};

async fn with_grid(desk: &Desk, grid: &str, more: &[&str]) -> Found {
    desk.doctor(&["--grid"], &[&["--grid", grid], more].concat()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grid_that_is_down_or_not_there() {
    let desk = Desk::new().await;
    let down = format!("http://{}/", unused().await);
    let found = with_grid(&desk, &down, &[]).await;
    found.blames("grid_connection", Failed, "refuses the connection", "whether it is up");
    let found = with_grid(&desk, "http://no-such-grid.invalid/", &[]).await;
    found.blames("grid_name", Failed, "leads nowhere", "Check the grid's address");
    assert_eq!(found.check("grid_info").outcome, Skipped);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grid_that_does_not_say_where_to_log_in() {
    let desk = Desk::new().await;
    desk.grid.on("/get_grid_info", |_| Reply::new("404 Not Found", &[], ""));
    desk.doctor(&[], &[]).await.blames("grid_info", Warning, "no page get_grid_info", "login address");
    let whole = desk.grid.url("/cgi-bin/login.cgi");
    for status in ["403 Forbidden", "301 Moved Permanently"] {
        desk.grid.on("/get_grid_info", move |_| Reply::new(status, &[("Location", "/grid/")], ""));
        desk.doctor(&[], &[]).await.blames("grid_info", Warning, "no page get_grid_info", "login address");
        with_grid(&desk, &whole, &[]).await.is_fine();
    }
    desk.grid.on("/get_grid_info", |_| Reply::ok("text/html", "<html>Welcome to our grid<br></html>"));
    desk.doctor(&[], &[]).await.blames(
        "grid_info",
        Failed,
        "some other web server",
        "not that of its web site",
    );
    desk.grid.on("/get_grid_info", |_| Reply::new("503 Service Unavailable", &[], ""));
    desk.doctor(&[], &[]).await.blames("grid_info", Failed, "error 503", "try again later");
    desk.grid.on("/get_grid_info", |_| Reply::none());
    desk.doctor(&[], &[]).await.blames("grid_connection", Failed, "is no grid", "https in place of http");
    // It names a place that nobody may lead us to.
    desk.grid_says("http://169.254.169.254/", Duration::ZERO);
    desk.doctor(&[], &[]).await.blames("grid_info", Failed, "169.254.169.254", "--grid-allow");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grid_that_is_ourselves() {
    let desk = Desk::new().await;
    let at = unused().await.to_string();
    let grid = format!("http://{at}/");
    let found = desk.doctor(&["--grid", "--listen"], &["--grid", &grid, "--listen", &at]).await;
    found.blames("grid_name", Failed, "rezcache's own address", "Check the grid's address");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grid_whose_certificate_is_not_believed() {
    let desk = Desk::new().await;
    let authority = Authority::new();
    let front = TlsFront::start(authority.sign(&["localhost"], |_| {}), desk.grid.at).await;
    let grid = format!("https://localhost:{}/", front.at.port());
    let found = with_grid(&desk, &grid, &[]).await;
    found.blames("grid_connection", Failed, "nobody that this computer trusts has signed it", "--ca-file");
    let file = format!("localhost:{}={}", front.at.port(), authority.file(desk.folder.path()).display());
    with_grid(&desk, &grid, &["--ca-file", &file]).await.is_fine();
    // A plain web server says so, and hangs up.
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let grid = format!("https://{}/", plain.local_addr().unwrap());
    tokio::spawn(async move {
        while let Result::Ok((mut stream, _)) = plain.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let found = with_grid(&desk, &grid, &[]).await;
    found.blames("grid_connection", Failed, "does not speak TLS", "http in place of https");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_differs_from_the_grids() {
    let desk = Desk::new().await;
    let login = desk.grid.url("/");
    desk.grid_says(&login, Duration::from_secs(1230));
    desk.doctor(&[], &[]).await.blames("clock", Warning, "are 20 minutes apart", "See whether the date");
    desk.grid_says(&login, Duration::from_secs(60));
    desk.doctor(&[], &[]).await.is_fine();
}

async fn with_service(desk: &Desk, service: &str, more: &[&str]) -> Found {
    desk.doctor(&[], &[&["--cache-server", service], more].concat()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_server_of_the_users_choice_is_asked() {
    let desk = Desk::new().await;
    let node = Node::start(config(desk.folder.path())).await.unwrap();
    let member = Member { addresses: vec![node.address().ip()], share: 1000, wanted: true };
    let (_tell, told) = watch::channel(Arc::new(Answers::of(&[member])));
    let zone = Zone::new("cache.home.arpa.", &["ns1.home.arpa.".to_owned()], 5, 1).unwrap();
    let dns = DnsServer::start("127.0.0.1:0".parse().unwrap(), zone, told).await.unwrap();
    let url = format!("https://cache.home.arpa:{}#pin={}", node.address().port(), node.pin().unwrap());
    let found = with_service(&desk, &url, &["--resolver", &dns.address().to_string()]).await;
    assert_eq!((found.check("service_name").outcome, found.check("service_quic").outcome), (Ok, Ok));
    let other = url.replace("cache.home.arpa", "other.home.arpa");
    let found = with_service(&desk, &other, &["--resolver", &dns.address().to_string()]).await;
    found.blames("service_name", Failed, "leads nowhere", "--cache-server");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_server_that_is_down_or_another_one() {
    let desk = Desk::new().await;
    let found = with_service(&desk, "https://no-such-cache.invalid:8443", &[]).await;
    found.blames("service_name", Failed, "leads nowhere", "--cache-server");
    let found = with_service(&desk, &format!("https://{}", unused().await), &[]).await;
    found.blames("service_https", Failed, "does not run", "whether it is up");
    let found = with_service(&desk, &format!("http://{}", desk.grid.at), &[]).await;
    found.blames("service_https", Failed, "no cache server of this version", "which version of rezcache");

    let node = Node::start(config(desk.folder.path())).await.unwrap();
    let wrong = format!("https://{}#pin=sha256:{}", node.address(), "ab".repeat(32));
    let found = with_service(&desk, &wrong, &[]).await;
    found.blames("service_https", Failed, "(pin)", "Get its address anew");
    let found = with_service(&desk, &format!("https://{}", node.address()), &[]).await;
    found.blames("service_https", Failed, "not believed", "#pin=");
    let right = format!("https://{}#pin={}", node.address(), node.pin().unwrap());
    let found = with_service(&desk, &right, &[]).await;
    found.is_fine();
    assert_eq!(found.check("service_quic").outcome, Ok);
    node.stop().await;
}

/// Passes TCP on to a node. What comes over UDP is the caller's affair.
async fn in_front_of(node: SocketAddr) -> (SocketAddr, UdpSocket) {
    let (listener, udp) = loop {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Result::Ok(udp) = UdpSocket::bind(listener.local_addr().unwrap()).await {
            break (listener, udp);
        }
    };
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Result::Ok((mut near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Result::Ok(mut far) = TcpStream::connect(node).await else { return };
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (at, udp)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_blocks_udp() {
    let desk = Desk::new().await;
    let node = Node::start(config(desk.folder.path())).await.unwrap();
    let (at, _udp) = in_front_of(node.address()).await;
    let found = with_service(&desk, &format!("https://{at}#pin={}", node.pin().unwrap()), &[]).await;
    found.blames("service_quic", Warning, "UDP to the cache server is blocked", "It works, only slower");
    node.stop().await;
}

/// Somebody else's QUIC server, which speaks this language.
fn quic_server(udp: UdpSocket, language: &[u8]) -> quinn::Endpoint {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    tls.alpn_protocols = vec![language.to_vec()];
    let tls = quinn::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    let runtime = Arc::new(quinn::TokioRuntime);
    let udp = udp.into_std().unwrap();
    let endpoint =
        quinn::Endpoint::new(quinn::EndpointConfig::default(), Some(config), udp, runtime).unwrap();
    let accepting = endpoint.clone();
    tokio::spawn(async move {
        while let Some(incoming) = accepting.accept().await {
            let _ = incoming.await;
        }
    });
    endpoint
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_else_and_another_version_over_quic() {
    let desk = Desk::new().await;
    let node = Node::start(config(desk.folder.path())).await.unwrap();
    for (language, outcome, seen, advice) in [
        (&b"rezcache/1"[..], Failed, "does not have the cache server's key", "Somebody may be in between"),
        (b"rezcache/9", Warning, "another version", "which version of rezcache"),
    ] {
        let (at, udp) = in_front_of(node.address()).await;
        let server = quic_server(udp, language);
        let found = with_service(&desk, &format!("https://{at}#pin={}", node.pin().unwrap()), &[]).await;
        found.blames("service_quic", outcome, seen, advice);
        server.close(0u8.into(), b"");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_are_missing_expired_or_refused() {
    let desk = Desk::new().await;
    let operator = Operator::new(desk.folder.path());
    let node = Node::start(operator.config(desk.folder.path())).await.unwrap();
    let service = format!("https://{}#pin={}", node.address(), node.pin().unwrap());
    let found = with_service(&desk, &service, &[]).await;
    found.blames("service_access", Failed, "only those who have a token", "--token-file");

    let file = desk.folder.path().join("token");
    let shown = file.to_str().unwrap();
    let mut claims = operator.claims("me", "school", "read");
    let ask = async |claims: &token::Claims| {
        let text = token::sign(&operator.key, claims);
        std::fs::write(&file, &text).unwrap();
        let found = with_service(&desk, &service, &["--token-file", shown]).await;
        assert!(!found.text.contains(&text), "a token is never shown");
        found
    };
    ask(&claims).await.blames("service_access", Warning, "runs out within two hours", "Get a new token");
    claims.expires = now() + 90 * 86_400;
    ask(&claims).await.is_fine();
    claims.issued_at = now() - 7200;
    claims.expires = now() - 3600;
    ask(&claims).await.blames("service_access", Failed, "has expired", "Get a new token");
    claims.audience = "another".into();
    claims.expires = now() + 90 * 86_400;
    ask(&claims).await.blames("service_access", Failed, "for another service", "Get a new token");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_cache_at_home() {
    let desk = Desk::new().await;
    let auto = ["--cache-server", "auto"];
    let found = desk.doctor(&[], &auto).await;
    found.blames("service_joined", Warning, "No shared cache at home", "rezcache join");

    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [home, school] = [Home::start(folders[0].path()).await, Home::start(folders[1].path()).await];
    let line = home.line();
    joined::add(&desk.data(), line.clone(), Some(true)).unwrap();
    let before = everything(&desk.data());
    let found = desk.doctor(&[], &auto).await;
    found.is_fine();
    let about = format!("{} at {}", line.pin.short(), line.address);
    for name in ["service_https", "service_quic", "service_access", "service_trust"] {
        let check = found.check(name);
        assert_eq!((check.outcome, check.about.as_deref()), (Ok, Some(&*about)), "{check:?}");
    }
    assert_eq!(everything(&desk.data()), before, "nothing is made, and nobody joins");
    assert!(!found.text.contains(line.token.reveal()), "a join line is a secret");

    // The same by its line, which is given as it is.
    desk.doctor(&[], &["--cache-server", &line.reveal()]).await.is_fine();

    // It is known by its key, wherever it is.
    let marker = desk.data().join("service-proven-wrong");
    std::fs::write(&marker, format!("{}\n", line.pin)).unwrap();
    let found = desk.doctor(&[], &auto).await;
    found.blames("service_trust", Failed, "is not used any more", "remove the file service-proven-wrong");
    std::fs::remove_file(&marker).unwrap();

    // One that is away is no fault while another one is there.
    let school_line = school.line();
    joined::add(&desk.data(), school_line.clone(), None).unwrap();
    school.node.stop().await;
    desk.doctor(&[], &auto).await.is_fine();
    let at = unused().await;
    joined::change(&desk.data(), &line.pin, |server| server.line.address = at).unwrap();
    joined::forget(&desk.data(), school_line.pin.short()).unwrap();
    let found = desk.doctor(&[], &auto).await;
    found.blames("service_https", Warning, "is not reached", "in its network");

    // A line of another household, with this one's key, lets nobody in.
    let other = Home::start(tempfile::tempdir().unwrap().path()).await;
    let refused = JoinLine { token: other.line().token, ..line };
    joined::add(&desk.data(), refused, None).unwrap();
    let found = desk.doctor(&[], &auto).await;
    found.blames("service_access", Failed, "refuses your join line", "new join line");
    assert!(found.check("service_access").advice.as_ref().unwrap().contains("`rezcache join`"));
    other.node.stop().await;
    home.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_server_that_was_proven_wrong() {
    let desk = Desk::new().await;
    let node = Node::start(config(desk.folder.path())).await.unwrap();
    let service = format!("https://{}#pin={}", node.address(), node.pin().unwrap());
    std::fs::create_dir(desk.data()).unwrap();
    let marker = desk.data().join("service-proven-wrong");
    std::fs::write(&marker, format!("{}\n", node.address())).unwrap();
    let found = with_service(&desk, &service, &[]).await;
    found.blames("service_trust", Failed, "is not used any more", "remove the file service-proven-wrong");
    assert!(marker.exists());
    node.stop().await;
}
