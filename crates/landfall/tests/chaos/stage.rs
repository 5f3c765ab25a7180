//! What a run plays on: a guest, its relays, its groups, its files; all removed at the end.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use landfall_core::units::ByteRate;
use landfall_testguest::{Endpoint, QmpRelay, RawQmp};
use rustix::fs::{Mode, OFlags, fcntl_setfl, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::json;
use tempfile::TempDir;

use crate::plan::{ChaosPlan, Fault, Side};
use crate::scene::Scene;

/// All that a run needs.
pub struct Stage {
    pub scene: Scene,
    pub relays: [Option<QmpRelay>; 2],
    /// Of each QEMU, for events, and for what another program does. Dropped before the verdict, which
    /// asks by itself.
    pub witnesses: [Option<RawQmp>; 2],
    pub vcpu_group: Option<VcpuGroup>,
    pub service_group: Option<ServiceGroup>,
    pub small_disk: Option<SmallDisk>,
    /// The other end of a stuck terminal.
    pub terminal: Option<fs::File>,
    pub busy: Vec<Child>,
    pub folder: TempDir,
}

impl Stage {
    /// Boots the guest; `None` where there is no QEMU.
    pub fn set(plan: &ChaosPlan) -> Option<Stage> {
        let mut scene = Scene::boot(&plan.guest, ByteRate::mb(plan.rate_mb))?;
        let folder = tempfile::tempdir().unwrap();
        let vcpu_group = plan.in_place.then(|| {
            let vcpu = scene.pair.source.vcpu_threads().unwrap()[0];
            VcpuGroup::create(vcpu, "80000")
        });
        let vcpu_group = vcpu_group.flatten();
        // QEMU tells how a migration stands only when asked to.
        let events = json!({ "capabilities": [{ "capability": "events", "state": true }] });
        let mut probe = scene.pair.source.raw_qmp().unwrap();
        probe.run_with("migrate-set-capabilities", events).unwrap();
        drop(probe);
        // The limit of the group and this setting were there before landfall.
        scene.before = crate::scene::Found::of(&scene.pair.source);
        let vms = [&scene.pair.source, &scene.pair.destination];
        let relay = |side: Side| {
            let front = folder.path().join(format!("{side:?}"));
            let relay = QmpRelay::start(Endpoint::Unix(front), vms[side as usize].qmp_socket());
            plan.relayed[side as usize].then(|| relay.unwrap())
        };
        let relays = [Side::Source, Side::Destination].map(relay);
        let witnesses = vms.map(|vm| vm.raw_qmp().ok());
        let small_disk = plan.has(|it| it == Fault::FullDisk).then(|| SmallDisk::mount(&folder));
        let service_group = plan.in_service_group.then(|| ServiceGroup::create(plan.seed));
        Some(Stage {
            relays,
            witnesses,
            vcpu_group,
            service_group: service_group.flatten(),
            small_disk: small_disk.flatten(),
            terminal: None,
            busy: Vec::new(),
            folder,
            scene,
        })
    }

    /// The address by which landfall reaches a monitor.
    fn monitor(&self, side: Side) -> String {
        let vms = [&self.scene.pair.source, &self.scene.pair.destination];
        match &self.relays[side as usize] {
            Some(relay) => relay.endpoint().to_string(),
            None => vms[side as usize].qmp_socket().display().to_string(),
        }
    }

    /// The command that starts landfall.
    pub fn command(&mut self, plan: &ChaosPlan) -> Command {
        let mut options = vec!["--max-bandwidth".to_owned(), format!("{}MB/s", plan.rate_mb)];
        options.extend(["--max-time".to_owned(), format!("{}s", plan.max_seconds)]);
        options.push("--policy".to_owned());
        match plan.policy {
            "rfc2011-stop" => options.extend(["rfc2011", "--aggression", "1.0"].map(str::to_owned)),
            "script" => {
                let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies/grip.rhai");
                options.push(format!("script:{}", root.display()));
            }
            policy => options.push(policy.to_owned()),
        }
        if plan.stalls_allowed {
            options.extend(["--give-way", "max-stall"].map(str::to_owned));
        }
        if let Some(disk) = &self.small_disk {
            options.extend(["--record".to_owned(), disk.0.join("r.jsonl").display().to_string()]);
        }
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let destination = plan.knows_destination.then(|| self.monitor(Side::Destination));
        let source = self.monitor(Side::Source);
        let mut command = self.scene.migrate_command(&source, destination.as_deref(), &options);
        if let Some(group) = &self.service_group {
            // It enters the group before it becomes landfall.
            let mut shell = Command::new("sh");
            shell.args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""]).arg(&group.0);
            shell.arg(command.get_program()).args(command.get_args());
            command = shell;
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        match plan.has(|it| it == Fault::StuckTerminal) {
            true => command.stderr(self.stuck_terminal()),
            false => command.stderr(fs::File::create(self.messages()).unwrap()),
        };
        command
    }

    /// The file with what landfall and its guardian say.
    pub fn messages(&self) -> PathBuf {
        self.folder.path().join("messages")
    }

    /// A terminal that takes nothing more, as after Ctrl-S.
    fn stuck_terminal(&mut self) -> Stdio {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK;
        let mut terminal = fs::File::from(open(name, flags, Mode::empty()).unwrap());
        while terminal.write(&[b' '; 256]).is_ok() {}
        while terminal.write(b" ").is_ok() {}
        // The flag is the open terminal's, landfall's as well: it must be off again.
        fcntl_setfl(&terminal, OFlags::empty()).unwrap();
        self.terminal = Some(master.into());
        terminal.into()
    }

    /// Lets the terminal go on: what was written to it is read.
    pub fn free_terminal(&mut self) {
        if let Some(mut terminal) = self.terminal.take() {
            let messages = self.messages();
            thread::spawn(move || {
                let mut text = Vec::new();
                // Ends with an error when all have closed it.
                let _ = terminal.read_to_end(&mut text);
                let text = String::from_utf8_lossy(&text);
                let _ = fs::write(messages, text.trim_start());
            });
        }
    }

    pub fn busy_cpus(&mut self, count: u64) {
        let spin = || Command::new("sh").args(["-c", "while :; do :; done"]).spawn();
        self.busy.extend((0..count).filter_map(|_| spin().ok()));
    }

    pub fn calm_cpus(&mut self) {
        for mut child in self.busy.drain(..) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.calm_cpus();
        // What a landfall that has failed left behind, so that it does not disturb the next run.
        for group in self.scene.groups_left() {
            let threads = fs::read_to_string(group.join("tasks")).unwrap_or_default();
            for thread in threads.lines() {
                let _ = fs::write("/sys/fs/cgroup/cpu/tasks", thread);
            }
            let _ = fs::remove_dir(group);
        }
    }
}

/// A group of the cpu controller with one vCPU and a limit of its own, as libvirt makes it.
pub struct VcpuGroup {
    path: PathBuf,
    vcpu: u32,
}

impl VcpuGroup {
    fn create(vcpu: u32, quota: &str) -> Option<VcpuGroup> {
        let path = PathBuf::from(format!("/sys/fs/cgroup/cpu/chaos-of-landfall-{vcpu}"));
        fs::create_dir(&path).ok()?;
        let group = VcpuGroup { path, vcpu };
        group.set_quota(quota);
        fs::write(group.path.join("tasks"), vcpu.to_string()).ok()?;
        Some(group)
    }

    pub fn set_quota(&self, quota: &str) {
        // Both, for landfall may have set another period.
        let _ = fs::write(self.path.join("cpu.cfs_period_us"), "100000");
        let _ = fs::write(self.path.join("cpu.cfs_quota_us"), quota);
    }
}

impl Drop for VcpuGroup {
    fn drop(&mut self) {
        // The thread may have ended.
        let _ = fs::write("/sys/fs/cgroup/cpu/tasks", self.vcpu.to_string());
        let _ = fs::remove_dir(&self.path);
    }
}

/// A cgroup v2 of its own for landfall, as systemd gives a service.
pub struct ServiceGroup(PathBuf);

impl ServiceGroup {
    fn create(seed: u64) -> Option<ServiceGroup> {
        let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(PathBuf::from);
        let root = roots.into_iter().find(|root| root.join("cgroup.procs").exists())?;
        let path = root.join(format!("chaos-of-landfall-{}-{seed}", std::process::id()));
        fs::create_dir(&path).ok()?;
        Some(ServiceGroup(path))
    }

    pub fn kill(&self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
    }
}

impl Drop for ServiceGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// A file system with hardly any room.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(folder: &TempDir) -> Option<SmallDisk> {
        let path = folder.path().join("disk");
        fs::create_dir(&path).ok()?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=16k", "chaos"]).arg(&path);
        mount.status().ok().filter(std::process::ExitStatus::success)?;
        Some(SmallDisk(path))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
