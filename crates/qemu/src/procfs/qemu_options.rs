//! What a QEMU's command line says of its monitors, its guest's name and what it waits for.

use std::path::PathBuf;

use crate::qmp::QmpAddress;

/// The options of a QEMU that landfall reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QemuOptions {
    /// The guest's name (`-name`), if it has one.
    pub guest_name: Option<String>,
    /// Sockets of its monitors, in the order of the command line. Paths are as they were given.
    pub monitors: Vec<QmpAddress>,
    /// The migration URI where it was started to wait for a guest (`-incoming`).
    pub incoming: Option<String>,
}

impl QemuOptions {
    /// Reads the words of a command line, the program first. What it does not understand it leaves out.
    pub fn parse(words: &[String]) -> QemuOptions {
        let mut found = QemuOptions::default();
        let mut sockets: Vec<(String, QmpAddress)> = Vec::new();
        let mut qmp_chardevs = Vec::new();
        for (option, value) in words.iter().zip(words.iter().skip(1)) {
            match option.trim_start_matches('-') {
                _ if !option.starts_with('-') => {}
                "qmp" | "qmp-pretty" => found.monitors.extend(qmp_option_address(value)),
                "chardev" => sockets.extend(chardev_socket(value)),
                "mon" if property(value, "mode") == Some("control") => {
                    let id = property(value, "chardev").or_else(|| unnamed_value(value));
                    qmp_chardevs.extend(id.map(str::to_owned));
                }
                "name" => {
                    let name = property(value, "guest").or_else(|| unnamed_value(value));
                    found.guest_name = name.map(str::to_owned);
                }
                "incoming" if value != "defer" => found.incoming = Some(value.clone()),
                _ => {}
            }
        }
        let of =
            |id: &String| sockets.iter().find(|(known, _)| known == id).map(|(_, at)| at.clone());
        found.monitors.extend(qmp_chardevs.iter().filter_map(of));
        found
    }
}

/// Reads the value of `-qmp`: `unix:/path,server=on,wait=off` or `tcp:host:port,server`.
fn qmp_option_address(value: &str) -> Option<QmpAddress> {
    let (address, rest) = value.split_once(',')?;
    is_server(rest).then(|| address.parse().ok()).flatten()
}

/// Reads the value of `-chardev`: `socket,id=charmonitor,path=/run/vm.qmp,server=on,wait=off`.
fn chardev_socket(value: &str) -> Option<(String, QmpAddress)> {
    let rest = value.strip_prefix("socket,")?;
    let path = property(rest, "path").filter(|_| is_server(rest))?;
    Some((property(rest, "id")?.to_owned(), QmpAddress::Unix(PathBuf::from(path))))
}

fn is_server(properties: &str) -> bool {
    properties.split(',').any(|it| matches!(it, "server" | "server=on" | "server=yes"))
}

fn property<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    value.split(',').find_map(|it| it.strip_prefix(name)?.strip_prefix('='))
}

/// Returns the first value, which QEMU lets stand without its property's name.
fn unnamed_value(value: &str) -> Option<&str> {
    value.split(',').next().filter(|it| !it.contains('=') && !it.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> QemuOptions {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        QemuOptions::parse(&words)
    }

    #[test]
    fn monitors_are_found_however_they_are_written() {
        let unix = |path: &str| QmpAddress::Unix(path.into());
        for (line, monitors) in [
            ("/usr/bin/qemu-system-x86_64 -qmp unix:/a,server=on,wait=off", vec![unix("/a")]),
            (
                "qemu-system-x86_64 --qmp tcp:127.0.0.1:4445,server",
                vec!["tcp:127.0.0.1:4445".parse().unwrap()],
            ),
            (
                "kvm -chardev socket,id=c,path=/b,server=on -mon chardev=c,mode=control -qmp unix:/a,server",
                vec![unix("/a"), unix("/b")],
            ),
            ("kvm -qmp unix:/a -monitor unix:/m,server", vec![]),
            ("kvm -chardev socket,id=c,path=/b,server=on -mon chardev=c,mode=readline", vec![]),
            ("kvm -chardev socket,id=c,path=/b -mon chardev=c,mode=control", vec![]),
            ("kvm", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(parsed(line).monitors, monitors, "{line}");
        }
        assert_eq!(QemuOptions::parse(&[]), QemuOptions::default());
    }

    #[test]
    fn the_guests_name_and_the_waiting_destinations_uri_are_read() {
        let one = parsed("kvm -name guest=db1,debug-threads=on -incoming tcp:0:4444");
        assert_eq!(
            (one.guest_name.as_deref(), one.incoming.as_deref()),
            (Some("db1"), Some("tcp:0:4444"))
        );
        let other = parsed("kvm -name web -incoming defer");
        assert_eq!((other.guest_name.as_deref(), other.incoming), (Some("web"), None));
    }
}
