//! Where the page listens, with and without TLS, and its limits on requests.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;

use super::page_server::{PATIENCE, PageServer, send_request, serve_command};

#[test]
fn without_tls_it_listens_only_on_this_host_and_says_what_else_to_do() {
    let folder = tempfile::tempdir().unwrap();
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:7700"] {
        let output = serve_command(&folder, &["--listen", listen]).output().unwrap();
        let says = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{says}");
        for remedy in ["--tls-cert", "ssh -L", "unix:/path"] {
            assert!(says.contains(remedy), "{says}");
        }
    }
}

#[test]
fn with_a_certificate_it_listens_anywhere_and_is_encrypted() {
    let made = rcgen::generate_simple_self_signed(["vmhost.example".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let files = ["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let more = ["--listen", "0.0.0.0:0", "--name", "vmhost.example"];
    let server = PageServer::start(&[&files[..], &more].concat());
    assert!(server.greeting.starts_with("Open https://vmhost.example:"), "{}", server.greeting);
    let (_, rest) = server.greeting.split_once("example:").unwrap();
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
    let token = format!("token={}", server.token());
    let stream = rustls::StreamOwned::new(connection, tcp);
    let login = send_request(stream, "POST /login", &[&host, &origin], &token);
    assert_eq!(login.status, 303, "{login:?}");
    assert!(
        login.head.contains("__host-landfall=") && login.head.contains("; secure"),
        "{login:?}"
    );

    let tcp = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let clear = send_request(tcp, "GET /login", &[&host], "");
    assert!(!clear.body.contains("landfall"), "{clear:?}");
}

#[test]
fn a_file_that_holds_no_certificate_is_named_and_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cert.pem");
    std::fs::write(&file, "not a certificate").unwrap();
    let file = file.to_str().unwrap();
    let output = serve_command(&folder, &["--tls-cert", file, "--tls-key", file]).output().unwrap();
    let says = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{says}");
    assert!(says.contains("--tls-cert") && says.contains("cert.pem"), "{says}");
}

#[test]
fn only_the_owner_connects_to_the_socket_and_a_stale_one_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("page.sock");
    let listen = format!("unix:{}", path.display());
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let server = PageServer::start(&["--listen", &listen]);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let bearer = format!("Authorization: Bearer {}", server.token());
    let ask = |headers: &[&str]| {
        send_request(
            UnixStream::connect(&path).unwrap(),
            "GET /",
            &[&["Host: localhost"], headers].concat(),
            "",
        )
    };
    assert_eq!(ask(&[&bearer]).status, 200);
    assert_eq!(ask(&[]).status, 303, "the token is needed on a socket too");
    let output = serve_command(&folder, &["--listen", &listen]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "a socket in use is not replaced: {output:?}");
}

#[test]
fn requests_that_are_too_large_are_refused() {
    let server = PageServer::start(&[]);
    let large = server.post("/guests", &format!("monitor={}", "x".repeat(100_000)));
    assert_eq!(large.status, 413, "{large:?}");
    let header = format!("X-Large: {}", "x".repeat(100_000));
    assert_eq!(server.request("GET /login", &[&header], "").status, 431);
    let many: Vec<String> = (0..200).map(|n| format!("X-{n}: x")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(server.request("GET /login", &many, "").status, 431);
    assert_eq!(server.request("GET /login", &[], "").status, 200);
}

#[test]
fn a_request_that_never_ends_is_dropped_and_delays_no_other() {
    let server = PageServer::start(&[]);
    let mut idle: Vec<TcpStream> =
        (0..40).map(|_| TcpStream::connect(server.address()).unwrap()).collect();
    for stream in &mut idle {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET /login HTTP/1.1\r\nX-Slow: ").unwrap();
    }
    let asked = Instant::now();
    assert_eq!(server.request("GET /login", &[], "").status, 200);
    let answered = asked.elapsed();
    let mut rest = Vec::new();
    // The connection ends, with an answer or without one.
    let _ = idle[0].read_to_end(&mut rest);
    let dropped_after = asked.elapsed();
    assert!(
        dropped_after < PATIENCE - Duration::from_secs(1),
        "still there after {dropped_after:?}"
    );
    assert!(answered < dropped_after, "{answered:?} {dropped_after:?}");
}
