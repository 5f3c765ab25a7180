//! Runs the `cgroup` tests where the cpu controller is in cgroup v2, and where it shares a hierarchy of v1
//! with `cpuset`: inside a small Linux guest.
//!
//! The guest is Debian's cloud kernel, busybox and that one test binary, statically linked, in an
//! initramfs, under QEMU's TCG. `scripts/setup.sh test` fetches what it takes; without it the test
//! says what is missing and is skipped.
//!
//! `LANDFALL_TEST_KERNEL` names another kernel, `LANDFALL_CGROUP_TEST_BINARY` a binary to run
//! instead (`measure_cgroup` for a measurement, say).

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

const TARGET: &str = "x86_64-unknown-linux-gnu";
const BUSYBOX: &str = "/usr/bin/busybox";

/// The guest's last word: the exit status of what ran in it.
const VERDICT: &str = "landfall-testguest-status=";

/// Booting takes 4 s and the tests 9 s on an idle machine, a measurement 5 min.
const PATIENCE: Duration = Duration::from_secs(600);

const INIT: &str = "\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
case \"$(/bin/busybox cat /proc/cmdline)\" in
*cgroup_no_v1=all*) /bin/busybox mount -t cgroup2 cgroup2 /sys/fs/cgroup ;;
*) /bin/busybox mount -t cgroup -o cpu,cpuset cgroup /sys/fs/cgroup ;;
esac
/bin/busybox chmod 1777 /tmp
/tests --test-threads=1 --nocapture
echo landfall-testguest-status=$?
/bin/busybox poweroff -f
";

#[test]
fn the_cgroup_tests_pass_in_a_guest_with_cgroup_v2() {
    run_tests_in_guest("linux", "cgroup_no_v1=all");
}

#[test]
fn the_cgroup_tests_pass_in_a_guest_whose_cpu_controller_is_mounted_with_cpuset() {
    // Newer kernels of Debian have no cpuset in v1.
    run_tests_in_guest("linux-6.1", "");
}

fn run_tests_in_guest(tool: &str, kernel_arguments: &str) {
    let kernel = match what_it_takes(tool) {
        Ok(kernel) => kernel,
        Err(missing) => return println!("skipped: {missing}; scripts/setup.sh test installs it"),
    };
    let binary = match std::env::var_os("LANDFALL_CGROUP_TEST_BINARY") {
        Some(binary) => PathBuf::from(binary),
        None => build(),
    };
    let directory = tempfile::tempdir().unwrap();
    let initramfs = pack(directory.path(), &binary);
    let console = boot(&kernel, &initramfs, kernel_arguments);

    let status = console.iter().find_map(|line| Some(line.split_once(VERDICT)?.1.trim()));
    assert_eq!(status, Some("0"), "inside the guest; its console is above");
    let skipped = console.iter().find(|line| line.contains("no cpu controller is mounted"));
    assert_eq!(skipped, None, "the tests had nothing to hold threads with");
}

/// The kernel, or what is missing.
fn what_it_takes(tool: &str) -> Result<PathBuf, String> {
    for (command, argument) in [("qemu-system-x86_64", "--version"), ("cpio", "--version")] {
        let found = Command::new(command).arg(argument).stdout(Stdio::null()).status();
        found.map_err(|error| format!("{command}: {error}"))?;
    }
    let busybox = Command::new("ldd").arg(BUSYBOX).output().map_err(|e| format!("ldd: {e}"))?;
    if !Path::new(BUSYBOX).exists() || busybox.status.success() {
        return Err(format!("{BUSYBOX} is not there or not statically linked"));
    }
    if let Some(kernel) = std::env::var_os("LANDFALL_TEST_KERNEL") {
        return Ok(kernel.into());
    }
    let boot =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools").join(tool).join("boot");
    let entries = fs::read_dir(&boot).into_iter().flatten().flatten();
    let is_kernel = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"))
    };
    let newest = entries.map(|entry| entry.path()).filter(is_kernel).max();
    newest.ok_or_else(|| format!("there is no kernel in {}", boot.display()))
}

/// Builds the `cgroup` test binary statically, beside the build that this test comes from.
fn build() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let target = this.ancestors().nth(3).expect("a test is in TARGET/PROFILE/deps").join("static");
    let output = Command::new(env!("CARGO"))
        .args(["test", "--no-run", "--package", "landfall-qemu", "--test", "cgroup"])
        .args(["--target", TARGET, "--message-format=json-render-diagnostics"])
        .env("CARGO_TARGET_DIR", target)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "the static build failed");
    let messages = String::from_utf8(output.stdout).unwrap();
    let mut executables = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == "cgroup")
            .then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    executables.next_back().expect("cargo names the test binary")
}

/// An initramfs with busybox, the binary and the script that runs it.
fn pack(directory: &Path, binary: &Path) -> PathBuf {
    let root = directory.join("root");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
    fs::copy(binary, root.join("tests")).unwrap();
    fs::write(root.join("init"), INIT).unwrap();
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755)).unwrap();

    let initramfs = directory.join("initramfs");
    let mut cpio = Command::new("cpio")
        .args(["--create", "--format=newc", "--quiet"])
        .current_dir(&root)
        .stdin(Stdio::piped())
        .stdout(fs::File::create(&initramfs).unwrap())
        .spawn()
        .unwrap();
    let mut names = cpio.stdin.take().unwrap();
    names.write_all(b".\nbin\nbin/busybox\ntests\ninit\n").unwrap();
    drop(names);
    assert!(cpio.wait().unwrap().success());
    initramfs
}

/// Boots it and gives back what it wrote to its console, once it has powered itself off.
fn boot(kernel: &Path, initramfs: &Path, kernel_arguments: &str) -> Vec<String> {
    let mut qemu = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg", "-smp", "2", "-m", "512", "-nodefaults", "-display", "none"])
        .args(["-serial", "stdio", "-no-reboot", "-kernel"])
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", &format!("console=ttyS0 quiet panic=-1 {kernel_arguments}")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (send, receive) = mpsc::channel();
    let console = qemu.stdout.take().unwrap();
    thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            let _ = send.send(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
    });

    let deadline = Instant::now() + PATIENCE;
    let mut lines = Vec::new();
    while let Ok(line) = receive.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        println!("{line}");
        lines.push(line);
    }
    let _ = qemu.kill(); // it has ended, unless it took too long
    let _ = qemu.wait();
    lines
}
