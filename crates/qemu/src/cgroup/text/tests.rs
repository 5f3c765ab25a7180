use super::*;
use proptest::prelude::*;

const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime shared:9 master:2 - cgroup cgroup rw,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

fn mount(root: &str, point: &str) -> CgroupMount {
    CgroupMount { root: root.into(), point: point.into(), v1_controllers: None }
}

#[test]
fn only_cgroup_mounts_are_taken_and_optional_tags_are_stepped_over() {
    let mounts = cgroup_mounts(HYBRID);
    let controllers: Vec<_> = mounts.iter().map(|m| m.v1_controllers.clone()).collect();
    let named = |options: &[&str]| Some(options.iter().map(|o| (*o).to_owned()).collect());
    assert_eq!(
        controllers,
        [named(&["rw", "cpu"]), named(&["rw", "cpuacct"]), named(&["rw", "name=systemd"]), None]
    );
    assert_eq!(mounts[0].point, Path::new("/sys/fs/cgroup/cpu"));
}

#[test]
fn blanks_in_a_mount_point_are_unescaped() {
    let line = r"41 31 0:38 /a\134b /mnt/two\040words rw - cgroup2 cgroup2 rw";
    assert_eq!(cgroup_mounts(line), [mount(r"/a\b", "/mnt/two words")]);
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
fn a_group_is_found_below_the_mount_that_shows_it() {
    let at = |group: &str, root: &str| directory_of(Path::new(group), &mount(root, "/cg"));
    assert_eq!(at("/", "/"), Some("/cg".into()));
    assert_eq!(at("/a/b", "/"), Some("/cg/a/b".into()));
    assert_eq!(at("/a/b", "/a"), Some("/cg/b".into()));
    assert_eq!(at("/ab", "/a"), None);
    assert_eq!(at("/../other", "/"), None, "outside the cgroup namespace");
    assert_eq!(at("/../other", "/.."), Some("/cg/other".into()), "mounted from outside it");
}

#[test]
fn both_units_of_throttled_time_are_read() {
    let expected = Throttling {
        periods: 31,
        throttled_periods: 30,
        throttled: Duration::from_micros(2_968_001),
    };
    let v1 = "nr_periods 31\nnr_throttled 30\nthrottled_time 2968001000\nnr_bursts 0\n";
    let v2 = "usage_usec 9\nnr_periods 31\nnr_throttled 30\nthrottled_usec 2968001\n";
    assert_eq!(throttling(v1), Some(expected));
    assert_eq!(throttling(v2), Some(expected));
    assert_eq!(throttling("usage_usec 9\n"), None);
}

#[test]
fn limits_schedules_and_threads_are_read() {
    assert_eq!(cpu_max("max 100000\n"), Some((None, 100_000)));
    assert_eq!(cpu_max("20000 100000\n"), Some((Some(20_000), 100_000)));
    assert_eq!(cpu_max("20000"), None);
    assert_eq!(schedstat("5 7 1\n"), Some((Duration::from_nanos(5), Duration::from_nanos(7))));
    assert_eq!(thread_ids("12\n0\nx\n13\n"), [12, 0, 13]);
}

#[test]
fn a_thread_name_with_brackets_does_not_shift_the_fields() {
    let fields: Vec<String> = (4..=52).map(|n| n.to_string()).collect();
    let line = format!("77 (CPU 0/KVM) x) R {}", fields.join(" "));
    let stat = thread_stat(&line).unwrap();
    assert_eq!(stat, ThreadStat { start_time_ticks: 22, real_time: false, ended: false });
    assert!(thread_stat(&line.replace(" R ", " Z ")).unwrap().ended);
    assert!(thread_stat(&line.replace(" 41 ", " 1 ")).unwrap().real_time);
}

proptest! {
    #[test]
    fn no_text_makes_a_reader_panic(text in "[\\PC\\n\\\\]{0,200}") {
        for mount in cgroup_mounts(&text) {
            let _ = directory_of(Path::new(&text), &mount);
        }
        let _ = (membership(&text), throttling(&text), cpu_max(&text), schedstat(&text));
        let _ = (thread_stat(&text), thread_ids(&text));
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
        let line = format!("41 31 0:38 / /{escaped} rw - cgroup2 cgroup2 rw");
        prop_assert_eq!(cgroup_mounts(&line), [mount("/", &format!("/{name}"))]);
    }
}

#[test]
fn a_mount_without_a_root_leads_nowhere_else() {
    let broken = mount("", "/sys/fs/cgroup/cpu");
    assert_eq!(directory_of(Path::new("/etc"), &broken), None);
}
