//! The kernel's files about cgroups and tasks: any text is read or left out.

#![no_main]

use landfall_qemu::cgroup::parse as cgroup;
use landfall_qemu::procfs::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    let words = parse::command_line(file);
    assert!(words.len() <= file.len());
    let file = String::from_utf8_lossy(file);
    let membership = parse::membership(&file);
    let groups = [membership.v1_cpu, membership.v2].into_iter().flatten();
    let groups: Vec<_> = groups.collect();
    for mount in parse::cgroup_mounts(&file) {
        for group in &groups {
            // Never above the mount, whatever the file says.
            if let Some(directory) = cgroup::group_directory(group, &mount) {
                assert!(directory.starts_with(&mount.point));
            }
        }
    }
    let _ = (cgroup::cpu_stat(&file), cgroup::cpu_max(&file), cgroup::thread_ids(&file));
    let _ = (parse::schedstat(&file), parse::task_stat(&file), parse::task_status(&file));
});
