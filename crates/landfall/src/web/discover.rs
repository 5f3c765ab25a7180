//! Guests that run on this host, as their QEMU's command lines tell. Nobody is asked anything: a
//! monitor serves one client at a time, and that may be somebody else's.

use std::fs;
use std::path::{Path, PathBuf};

use landfall_qemu::qmp::QmpAddress;

/// A QEMU with a monitor that somebody can connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovered {
    /// Its process.
    pub pid: i32,
    /// What it calls its guest, if it calls it something.
    pub name: Option<String>,
    /// Sockets of its monitors, in the order of the command line.
    pub monitors: Vec<QmpAddress>,
    /// Where it was told to wait for a guest, when it was started.
    pub incoming: Option<String>,
}

/// All of them, by process.
pub fn discover() -> Vec<Discovered> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut found: Vec<Discovered> = pids.filter_map(of_process).collect();
    found.sort_by_key(|guest| guest.pid);
    found
}

fn of_process(pid: i32) -> Option<Discovered> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<String> = line
        .split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    let mut found = read(pid, &words)?;
    let folder = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
    for monitor in &mut found.monitors {
        if let QmpAddress::Unix(path) = monitor {
            *path = folder.join(&*path);
        }
    }
    // What is in another mount namespace cannot be reached from here by that name.
    found.monitors.retain(|monitor| match monitor {
        QmpAddress::Unix(path) => path.exists(),
        QmpAddress::Tcp(_) => true,
    });
    (!found.monitors.is_empty()).then_some(found)
}

/// What a command line tells, if it is a QEMU's.
fn read(pid: i32, words: &[String]) -> Option<Discovered> {
    let program = Path::new(words.first()?).file_name()?.to_str()?;
    if !(program.starts_with("qemu-system-") || program == "qemu" || program == "kvm") {
        return None;
    }
    let mut found = Discovered { pid, name: None, monitors: Vec::new(), incoming: None };
    let mut sockets: Vec<(String, QmpAddress)> = Vec::new();
    let mut controls = Vec::new();
    for (option, value) in words.iter().zip(&words[1..]) {
        match option.trim_start_matches('-') {
            _ if !option.starts_with('-') => {}
            "qmp" | "qmp-pretty" => found.monitors.extend(address(value)),
            "chardev" => sockets.extend(chardev(value)),
            "mon" if property(value, "mode") == Some("control") => {
                let id = property(value, "chardev").or_else(|| first(value));
                controls.extend(id.map(str::to_owned));
            }
            "name" => {
                found.name = property(value, "guest").or_else(|| first(value)).map(str::to_owned);
            }
            "incoming" if value != "defer" => found.incoming = Some(value.clone()),
            _ => {}
        }
    }
    let of = |id: &String| sockets.iter().find(|(known, _)| known == id).map(|(_, at)| at.clone());
    found.monitors.extend(controls.iter().filter_map(of));
    Some(found)
}

/// `unix:/path,server=on,wait=off` and `tcp:host:port,server`, as `-qmp` takes them.
fn address(value: &str) -> Option<QmpAddress> {
    let (place, rest) = value.split_once(',')?;
    serves(rest).then(|| place.parse().ok()).flatten()
}

/// `socket,id=charmonitor,path=/run/vm.qmp,server=on,wait=off`.
fn chardev(value: &str) -> Option<(String, QmpAddress)> {
    let rest = value.strip_prefix("socket,")?;
    let path = property(rest, "path").filter(|_| serves(rest))?;
    Some((property(rest, "id")?.to_owned(), QmpAddress::Unix(PathBuf::from(path))))
}

fn serves(properties: &str) -> bool {
    properties.split(',').any(|it| matches!(it, "server" | "server=on" | "server=yes"))
}

fn property<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    value.split(',').find_map(|it| it.strip_prefix(name)?.strip_prefix('='))
}

/// The value that stands first without a name.
fn first(value: &str) -> Option<&str> {
    value.split(',').next().filter(|it| !it.contains('=') && !it.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(line: &str) -> Option<Discovered> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        read(7, &words)
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
            assert_eq!(found(line).unwrap().monitors, monitors, "{line}");
        }
    }

    #[test]
    fn a_guest_has_its_name_and_a_destination_where_it_waits() {
        let one = found("kvm -name guest=db1,debug-threads=on -incoming tcp:0:4444").unwrap();
        assert_eq!(
            (one.name.as_deref(), one.incoming.as_deref()),
            (Some("db1"), Some("tcp:0:4444"))
        );
        let other = found("kvm -name web -incoming defer").unwrap();
        assert_eq!((other.name.as_deref(), other.incoming), (Some("web"), None));
    }

    #[test]
    fn other_programs_are_no_guests() {
        for line in ["qemu-img -qmp unix:/a,server", "bash -qmp unix:/a,server", ""] {
            assert_eq!(found(line), None, "{line}");
        }
    }
}
