//! Where the page listens, and what it bears from whom.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;

use crate::serving::{PATIENCE, Serving, command, exchange};

#[test]
fn in_the_clear_it_listens_to_this_host_alone_and_says_what_else_can_be_done() {
    let folder = tempfile::tempdir().unwrap();
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:7700"] {
        let output = command(&folder, &["--listen", listen]).output().unwrap();
        let says = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{says}");
        for remedy in ["--tls-cert", "ssh -L", "unix:/path"] {
            assert!(says.contains(remedy), "{says}");
        }
    }
}

#[test]
fn with_a_certificate_it_is_encrypted_wherever_it_listens() {
    let made = rcgen::generate_simple_self_signed(["vmhost.example".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let files = ["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let more = ["--listen", "0.0.0.0:0", "--name", "vmhost.example"];
    let serving = Serving::start(&[&files[..], &more].concat());
    assert!(serving.greeting.starts_with("Open https://vmhost.example:"), "{}", serving.greeting);
    let (_, rest) = serving.greeting.split_once("example:").unwrap();
    let port: u16 = rest.split('/').next().unwrap().parse().unwrap();

    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("vmhost.example").unwrap();
    let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let tcp = TcpStream::connect(("127.0.0.1", port)).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    let host = format!("Host: vmhost.example:{port}");
    let origin = format!("Origin: https://vmhost.example:{port}");
    let token = format!("token={}", serving.token());
    let stream = rustls::StreamOwned::new(connection, tcp);
    let login = exchange(stream, "POST /login", &[&host, &origin], &token);
    assert_eq!(login.status, 303, "{login:?}");
    assert!(
        login.head.contains("__host-landfall=") && login.head.contains("; secure"),
        "{login:?}"
    );

    let tcp = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let clear = exchange(tcp, "GET /login", &[&host], "");
    assert!(!clear.body.contains("landfall"), "{clear:?}");
}

#[test]
fn a_certificate_that_is_none_is_refused_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cert.pem");
    std::fs::write(&file, "not a certificate").unwrap();
    let file = file.to_str().unwrap();
    let output = command(&folder, &["--tls-cert", file, "--tls-key", file]).output().unwrap();
    let says = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{says}");
    assert!(says.contains("--tls-cert") && says.contains("cert.pem"), "{says}");
}

#[test]
fn a_socket_is_its_owners_alone_and_one_left_behind_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("page.sock");
    let listen = format!("unix:{}", path.display());
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let serving = Serving::start(&["--listen", &listen]);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let bearer = format!("Authorization: Bearer {}", serving.token());
    let ask = |headers: &[&str]| {
        exchange(
            UnixStream::connect(&path).unwrap(),
            "GET /",
            &[&["Host: localhost"], headers].concat(),
            "",
        )
    };
    assert_eq!(ask(&[&bearer]).status, 200);
    assert_eq!(ask(&[]).status, 303, "the token is needed here as well");
    let output = command(&folder, &["--listen", &listen]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "one that is in use is not taken over: {output:?}");
}

#[test]
fn what_is_too_large_is_refused() {
    let serving = Serving::start(&[]);
    let large = serving.post("/guests", &format!("monitor={}", "x".repeat(100_000)));
    assert_eq!(large.status, 413, "{large:?}");
    let header = format!("X-Large: {}", "x".repeat(100_000));
    assert_eq!(serving.ask("GET /login", &[&header], "").status, 431);
    let many: Vec<String> = (0..200).map(|n| format!("X-{n}: x")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(serving.ask("GET /login", &many, "").status, 431);
    assert_eq!(serving.ask("GET /login", &[], "").status, 200);
}

#[test]
fn who_never_ends_a_request_is_let_go_and_holds_nobody_up() {
    let serving = Serving::start(&[]);
    let mut idle: Vec<TcpStream> =
        (0..40).map(|_| TcpStream::connect(serving.address()).unwrap()).collect();
    for stream in &mut idle {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET /login HTTP/1.1\r\nX-Slow: ").unwrap();
    }
    let asked = Instant::now();
    assert_eq!(serving.ask("GET /login", &[], "").status, 200);
    let answered = asked.elapsed();
    let mut rest = Vec::new();
    // It ends: with an answer or without one.
    let _ = idle[0].read_to_end(&mut rest);
    let let_go = asked.elapsed();
    assert!(let_go < PATIENCE - Duration::from_secs(1), "still there after {let_go:?}");
    assert!(answered < let_go, "{answered:?} {let_go:?}");
}
