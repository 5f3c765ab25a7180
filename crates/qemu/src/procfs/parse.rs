//! The text of the kernel's files about tasks and mounts: pure functions, no file is opened here.
//!
//! Each returns `None`, or leaves the line out, where the text is not what the kernel writes. No text
//! makes one of them panic.

use std::path::PathBuf;
use std::time::Duration;

/// What `/proc/PID/stat` says about a process or thread that landfall has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskStat {
    /// When the task started, in clock ticks after boot: together with its id it identifies one task
    /// until the next boot.
    pub start_time_ticks: u64,
    /// The task runs under SCHED_FIFO, SCHED_RR or SCHED_DEADLINE, which a CFS quota does not hold.
    pub is_real_time: bool,
    /// The task has ended and waits to be reaped.
    pub has_ended: bool,
}

/// Reads a `stat` line. The task's name, in brackets, may hold blanks and brackets, so fields are
/// counted from the last closing bracket. Field numbers are those of proc(5).
pub fn task_stat(text: &str) -> Option<TaskStat> {
    const STATE: usize = 3;
    const STARTTIME: usize = 22;
    const POLICY: usize = 41;
    const REAL_TIME: [&str; 3] = ["1", "2", "6"]; // SCHED_FIFO, SCHED_RR, SCHED_DEADLINE

    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |number: usize| fields.get(number - STATE).copied();
    Some(TaskStat {
        start_time_ticks: field(STARTTIME)?.parse().ok()?,
        is_real_time: REAL_TIME.contains(&field(POLICY)?),
        has_ended: matches!(field(STATE)?, "Z" | "X"),
    })
}

/// What `/proc/PID/status` says about a process or thread that landfall has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskStatus {
    /// The process that the thread belongs to (`Tgid`).
    pub tgid: i32,
    /// The user who started it.
    pub real_uid: u32,
    /// The user whose rights it has.
    pub effective_uid: u32,
    /// The user whose rights it may take up again.
    pub saved_uid: u32,
}

/// Reads a `status` file: the lines `Tgid:` and `Uid:`.
pub fn task_status(text: &str) -> Option<TaskStatus> {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let mut uids = value("Uid")?.split_whitespace().map(|uid| uid.parse().ok());
    let mut next_uid = || uids.next().flatten();
    Some(TaskStatus {
        tgid: value("Tgid")?.trim().parse().ok()?,
        real_uid: next_uid()?,
        effective_uid: next_uid()?,
        saved_uid: next_uid()?,
    })
}

/// The scheduler's times of one thread since it started, from `/proc/PID/schedstat`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SchedStat {
    /// Time on a CPU.
    pub cpu_time: Duration,
    /// Time runnable but not running (the kernel's `run_delay`). Time throttled by a quota is included.
    pub run_delay: Duration,
}

/// Reads a `schedstat` file: nanoseconds on a CPU, nanoseconds of run delay, number of time slices.
pub fn schedstat(text: &str) -> Option<SchedStat> {
    let mut numbers = text.split_whitespace().map(|word| word.parse().ok());
    let mut next = || numbers.next().flatten().map(Duration::from_nanos);
    Some(SchedStat { cpu_time: next()?, run_delay: next()? })
}

/// Splits a `cmdline` file, whose words each end with a zero byte. Bytes that are not UTF-8 are
/// replaced.
pub fn command_line(bytes: &[u8]) -> Vec<String> {
    let words = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    if words.is_empty() {
        return Vec::new();
    }
    words.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// The cgroups of one thread, from `/proc/PID/task/TID/cgroup`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Membership {
    /// Its group in the v1 hierarchy that has the cpu controller, if there is such a hierarchy.
    pub v1_cpu: Option<PathBuf>,
    /// Its group in the unified hierarchy (v2).
    pub v2: Option<PathBuf>,
}

/// Reads `ID:CONTROLLERS:PATH` lines; `0::PATH` is the unified hierarchy.
pub fn membership(text: &str) -> Membership {
    let mut found = Membership::default();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if controllers.split(',').any(|name| name == "cpu") {
            found.v1_cpu = Some(PathBuf::from(path));
        } else if id == "0" && controllers.is_empty() {
            found.v2 = Some(PathBuf::from(path));
        }
    }
    found
}

/// One mounted cgroup hierarchy, from a line of `/proc/PID/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupMount {
    /// The group of the hierarchy that shows at `point`: `/` unless only a subtree is mounted. It
    /// leads through `..` where the mount reaches above the reader's cgroup namespace.
    pub root: PathBuf,
    /// The directory at which it is mounted.
    pub point: PathBuf,
    /// `None` for the unified hierarchy (v2); otherwise the controllers attached to the v1 hierarchy.
    pub v1_controllers: Option<Vec<String>>,
}

/// Reads the cgroup mounts among the lines of a `mountinfo` file.
pub fn cgroup_mounts(mountinfo: &str) -> Vec<CgroupMount> {
    mountinfo.lines().filter_map(cgroup_mount).collect()
}

/// `ID PARENT MAJ:MIN ROOT POINT OPTIONS [TAG...] - TYPE SOURCE SUPER-OPTIONS`
fn cgroup_mount(line: &str) -> Option<CgroupMount> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(3);
    let (root, point) = (mount.next()?, mount.next()?);
    let mut filesystem = filesystem.split(' ');
    let v1_controllers = match filesystem.next()? {
        "cgroup2" => None,
        "cgroup" => Some(filesystem.nth(1)?.split(',').map(str::to_owned).collect()),
        _ => return None,
    };
    Some(CgroupMount { root: unescape(root), point: unescape(point), v1_controllers })
}

/// `mountinfo` writes space, tab, newline and backslash as `\` and three octal digits.
fn unescape(field: &str) -> PathBuf {
    let mut parts = field.split('\\');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code.filter(u8::is_ascii) {
            Some(code) => {
                text.push(char::from(code));
                text.push_str(&part[3..]);
            }
            None => {
                text.push('\\');
                text.push_str(part);
            }
        }
    }
    PathBuf::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime shared:9 master:2 - cgroup cgroup rw,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn only_cgroup_mounts_are_taken_and_optional_tags_are_stepped_over() {
        let mounts = cgroup_mounts(HYBRID);
        let controllers: Vec<_> = mounts.iter().map(|m| m.v1_controllers.clone()).collect();
        let named = |options: &[&str]| Some(options.iter().map(|o| (*o).to_owned()).collect());
        let expected = [
            named(&["rw", "cpu"]),
            named(&["rw", "cpuacct"]),
            named(&["rw", "name=systemd"]),
            None,
        ];
        assert_eq!(controllers, expected);
        assert_eq!(mounts[0].point, Path::new("/sys/fs/cgroup/cpu"));
    }

    #[test]
    fn blanks_in_a_mount_point_are_unescaped() {
        let line = r"41 31 0:38 /a\134b /mnt/two\040words rw - cgroup2 cgroup2 rw";
        let mounts = cgroup_mounts(line);
        assert_eq!(mounts[0].root, Path::new(r"/a\b"));
        assert_eq!(mounts[0].point, Path::new("/mnt/two words"));
        assert_eq!(unescape(r"\9x\04"), Path::new(r"\9x\04"));
    }

    #[test]
    fn the_line_that_names_cpu_decides_where_the_controller_is() {
        let hybrid = membership("9:name=systemd:/\n2:cpuacct:/b\n1:cpu:/a:b\n0::/c\n");
        assert_eq!(hybrid.v1_cpu.as_deref(), Some(Path::new("/a:b")));
        assert_eq!(hybrid.v2.as_deref(), Some(Path::new("/c")));
        let together = membership("3:cpu,cpuacct:/machine/qemu-1\n");
        assert_eq!(together.v1_cpu.as_deref(), Some(Path::new("/machine/qemu-1")));
        let unified = membership("0::/machine.slice/machine-qemu\\x2d1.scope/libvirt/vcpu0\n");
        assert_eq!(unified.v1_cpu, None);
        assert!(unified.v2.unwrap().ends_with("libvirt/vcpu0"));
    }

    #[test]
    fn a_thread_name_with_brackets_does_not_shift_the_fields() {
        let fields: Vec<String> = (4..=52).map(|n| n.to_string()).collect();
        let line = format!("77 (CPU 0/KVM) x) R {}", fields.join(" "));
        let stat = task_stat(&line).unwrap();
        let expected = TaskStat { start_time_ticks: 22, is_real_time: false, has_ended: false };
        assert_eq!(stat, expected);
        assert!(task_stat(&line.replace(" R ", " Z ")).unwrap().has_ended);
        assert!(task_stat(&line.replace(" 41 ", " 1 ")).unwrap().is_real_time);
    }

    #[test]
    fn statuses_schedules_and_command_lines_are_read() {
        let status = "Name:\tCPU 0/KVM\nTgid:\t70\nPid:\t77\nUid:\t1\t2\t3\t4\nGid:\t0\t0\t0\t0\n";
        let expected = TaskStatus { tgid: 70, real_uid: 1, effective_uid: 2, saved_uid: 3 };
        assert_eq!(task_status(status), Some(expected));
        assert_eq!(task_status("Tgid:\t70\n"), None);
        let times = schedstat("5 7 1\n").unwrap();
        assert_eq!(
            (times.cpu_time, times.run_delay),
            (Duration::from_nanos(5), Duration::from_nanos(7))
        );
        assert_eq!(schedstat("5"), None);
        assert_eq!(command_line(b"kvm\0-name\0\0x\0"), ["kvm", "-name", "", "x"]);
        assert_eq!(command_line(b""), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn no_text_makes_a_reader_panic(text in "[\\PC\\n\\\\]{0,200}") {
            let _ = (cgroup_mounts(&text), membership(&text), schedstat(&text));
            let _ = (task_stat(&text), task_status(&text), command_line(text.as_bytes()));
        }

        #[test]
        fn no_mutation_of_a_real_file_makes_a_reader_panic(
            cut in 0..HYBRID.len(), junk in "[ \\\\0-9:/,.-]{0,8}",
        ) {
            let text = format!("{}{junk}{}", &HYBRID[..cut], &HYBRID[cut..]);
            let _ = (cgroup_mounts(&text), membership(&text));
        }

        #[test]
        fn what_mountinfo_escapes_comes_back(name in "[a-z \\\\\\t]{1,20}") {
            let escaped = name.replace('\\', r"\134").replace(' ', r"\040").replace('\t', r"\011");
            let mounts = cgroup_mounts(&format!("41 31 0:38 / /{escaped} rw - cgroup2 cgroup2 rw"));
            prop_assert_eq!(&mounts[0].point, &PathBuf::from(format!("/{name}")));
        }
    }
}
