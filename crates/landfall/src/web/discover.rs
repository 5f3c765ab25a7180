//! Finds the QEMUs that run on this host, by their command lines in `/proc`. Does not connect to any
//! monitor: a monitor serves one client at a time, and another program may be using it.

use std::fs;
use std::path::{Path, PathBuf};

use landfall_qemu::qmp::QmpAddress;

/// A QEMU with a QMP monitor that landfall can connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoveredQemu {
    /// Its process.
    pub pid: i32,
    /// The guest's name (`-name`), if it has one.
    pub guest_name: Option<String>,
    /// Sockets of its monitors, in the order of the command line.
    pub monitors: Vec<QmpAddress>,
    /// The migration URI where it was started to wait for a guest (`-incoming`).
    pub incoming: Option<String>,
}

/// Returns all QEMUs on this host that have a reachable monitor, by process id.
pub fn discover_qemus() -> Vec<DiscoveredQemu> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut found: Vec<DiscoveredQemu> = pids.filter_map(qemu_of_process).collect();
    found.sort_by_key(|qemu| qemu.pid);
    found
}

fn qemu_of_process(pid: i32) -> Option<DiscoveredQemu> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<String> = line
        .split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    let mut found = parse_command_line(pid, &words)?;
    let folder = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
    for monitor in &mut found.monitors {
        if let QmpAddress::Unix(path) = monitor {
            *path = folder.join(&*path);
        }
    }
    // A socket in another mount namespace cannot be reached from here by its path.
    found.monitors.retain(|monitor| match monitor {
        QmpAddress::Unix(path) => path.exists(),
        QmpAddress::Tcp(_) => true,
    });
    (!found.monitors.is_empty()).then_some(found)
}

/// Reads a command line; `None` if it is not a QEMU's.
fn parse_command_line(pid: i32, words: &[String]) -> Option<DiscoveredQemu> {
    let program = Path::new(words.first()?).file_name()?.to_str()?;
    if !(program.starts_with("qemu-system-") || program == "qemu" || program == "kvm") {
        return None;
    }
    let mut found = DiscoveredQemu { pid, guest_name: None, monitors: Vec::new(), incoming: None };
    let mut sockets: Vec<(String, QmpAddress)> = Vec::new();
    let mut qmp_chardevs = Vec::new();
    for (option, value) in words.iter().zip(&words[1..]) {
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
    let of = |id: &String| sockets.iter().find(|(known, _)| known == id).map(|(_, at)| at.clone());
    found.monitors.extend(qmp_chardevs.iter().filter_map(of));
    Some(found)
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

    fn parsed(line: &str) -> Option<DiscoveredQemu> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        parse_command_line(7, &words)
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
        ] {
            assert_eq!(parsed(line).unwrap().monitors, monitors, "{line}");
        }
    }

    #[test]
    fn the_guests_name_and_the_waiting_destinations_uri_are_read() {
        let one = parsed("kvm -name guest=db1,debug-threads=on -incoming tcp:0:4444").unwrap();
        assert_eq!(
            (one.guest_name.as_deref(), one.incoming.as_deref()),
            (Some("db1"), Some("tcp:0:4444"))
        );
        let other = parsed("kvm -name web -incoming defer").unwrap();
        assert_eq!((other.guest_name.as_deref(), other.incoming), (Some("web"), None));
    }

    #[test]
    fn other_programs_are_not_taken_for_qemu() {
        for line in ["qemu-img -qmp unix:/a,server", "bash -qmp unix:/a,server", ""] {
            assert_eq!(parsed(line), None, "{line}");
        }
    }
}
