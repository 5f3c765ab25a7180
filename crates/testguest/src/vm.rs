//! A QEMU process that runs a [`GuestSpec`], or waits for one to be migrated in.

use crate::child::Child;
use crate::cpu_isolation::IsolatedCpus;
use crate::heartbeats::{Heartbeats, QemuIndex};
use crate::image::IMAGE;
use crate::raw_qmp::{RawQmp, RawQmpError};
use crate::spec::{GuestSpec, GuestSpecError};
use landfall_core::units::Bytes;
use std::env;
use std::fs::{self, File};
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a QEMU may take until it answers. Half a second is usual; this is for loaded machines.
const START_UP: Duration = Duration::from_secs(30);
/// Longest path of a socket that the kernel takes.
const LONGEST_SOCKET: usize = 107;

/// QEMU's machine type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MachineType {
    /// `pc`: the i440FX of old.
    #[default]
    Pc,
    /// `q35`.
    Q35,
}

/// Where a destination waits for its guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// On a free port of 127.0.0.1, which QEMU picks; [`Vm::incoming`] tells it.
    Tcp,
    /// On a unix socket in the run directory.
    Unix,
    /// Wherever this URI says; `defer` to say it later over QMP.
    Uri(String),
}

/// Why a guest could not be started or asked.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// The guest asked for cannot be.
    #[error(transparent)]
    GuestSpec(#[from] GuestSpecError),
    /// There is no such program.
    #[error("{program} cannot be found; install qemu-system-x86 or set LANDFALL_QEMU to its path")]
    NoQemu {
        /// What was looked for.
        program: String,
    },
    /// QEMU ended before it answered.
    #[error("QEMU ended at its start ({status}): {stderr}")]
    Died {
        /// How.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// QEMU runs but does not answer.
    #[error("QEMU did not answer within {START_UP:?}: {stderr}")]
    Silent {
        /// What it said.
        stderr: String,
    },
    /// The run directory's path leaves no room for a socket's name.
    #[error("{directory} is too long a path for sockets in it; choose a shorter run directory")]
    LongPath {
        /// The run directory.
        directory: String,
    },
    /// Something about a file, a socket or the process.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// QEMU does not say what it is asked.
    #[error(transparent)]
    RawQmp(#[from] RawQmpError),
    /// The guest does not say what it should.
    #[error(transparent)]
    Guest(#[from] crate::heartbeats::GuestError),
}

/// How a guest is to be started. Made by [`Vm::builder`] or [`Vm::destination`].
#[derive(Debug, Clone)]
pub struct VmBuilder {
    spec: GuestSpec,
    qemu: String,
    accel: String,
    machine: MachineType,
    incoming: Option<Incoming>,
    paused: bool,
    run_directory: Option<PathBuf>,
    memory_file: Option<PathBuf>,
    memory_backend: String,
    arguments: Vec<String>,
    heartbeats: Heartbeats,
    isolated_cpus: Option<IsolatedCpus>,
}

impl VmBuilder {
    /// The QEMU program. Default: `LANDFALL_QEMU`, else `qemu-system-x86_64`.
    pub fn qemu(mut self, program: impl Into<String>) -> Self {
        self.qemu = program.into();
        self
    }

    /// The oldest QEMU that is supported, 7.2, as `LANDFALL_QEMU_72` and `LANDFALL_QEMU_72_ARGS` name it; `None`,
    /// with the reason printed, where they do not.
    pub fn on_oldest_qemu(self) -> Option<VmBuilder> {
        let Ok(qemu) = env::var("LANDFALL_QEMU_72") else {
            eprintln!("skipped: LANDFALL_QEMU_72 does not name a QEMU 7.2");
            return None;
        };
        let arguments = env::var("LANDFALL_QEMU_72_ARGS").unwrap_or_default();
        Some(self.qemu(qemu).arguments(arguments.split_ascii_whitespace()))
    }

    /// QEMU's `-accel`. Default: `LANDFALL_ACCEL`, else `tcg,thread=multi`.
    pub fn accel(mut self, accel: impl Into<String>) -> Self {
        self.accel = accel.into();
        self
    }

    /// The machine type. Default: [`MachineType::Pc`].
    pub fn machine(mut self, machine: MachineType) -> Self {
        self.machine = machine;
        self
    }

    /// Waits for a migration instead of booting.
    pub fn incoming(mut self, incoming: Incoming) -> Self {
        self.incoming = Some(incoming);
        self
    }

    /// Starts with the vCPUs stopped (`-S`); a destination stays stopped after the migration.
    pub fn paused(mut self) -> Self {
        self.paused = true;
        self
    }

    /// Where sockets and QEMU's messages go; of this guest alone, and left in place. Default: a
    /// temporary directory that goes with the [`Vm`].
    pub fn run_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.run_directory = Some(directory.into());
        self
    }

    /// Has the guest's memory in a shared file, where a test can look at it and spoil it. An offset
    /// in the file is a guest-physical address.
    pub fn memory_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.memory_file = Some(path.into());
        self
    }

    /// QEMU's object for the guest's memory, with its options but `id` and `size`. Default:
    /// `memory-backend-ram`.
    pub fn memory_backend(mut self, object: impl Into<String>) -> Self {
        self.memory_backend = object.into();
        self
    }

    /// Further arguments for QEMU, after those of `LANDFALL_QEMU_ARGS`.
    pub fn arguments<A: Into<String>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// The record the guest's beats go into. Default: a new one; a destination shares its source's.
    pub fn heartbeats(mut self, heartbeats: &Heartbeats) -> Self {
        self.heartbeats = heartbeats.clone();
        self
    }

    /// Has the vCPUs run on these processors and nowhere else, here and at the destination. Default:
    /// wherever the kernel puts them.
    pub fn isolated_cpus(mut self, isolated_cpus: Option<IsolatedCpus>) -> Self {
        self.isolated_cpus = isolated_cpus;
        self
    }

    /// Starts QEMU and waits until it answers. A source then boots its guest, see
    /// [`Heartbeats::ready`]; a destination listens.
    ///
    /// # Errors
    /// [`VmError`] if the spec cannot be, QEMU is not there, or it does not come up.
    pub fn start(self) -> Result<Vm, VmError> {
        self.spec.validate()?;
        let directory = self.directory()?;
        let file = |name: &str| directory.path().join(name);
        fs::write(file("guest.elf"), IMAGE).map_err(io_error("write the guest's image"))?;
        // QEMU connects to us, before it runs a single instruction of the guest: so not a byte is
        // lost, and the guest is never held up for want of a listener.
        let _ = fs::remove_file(file("serial.sock"));
        let listener = UnixListener::bind(file("serial.sock"))
            .map_err(io_error("listen for the guest's serial port"))?;
        let stderr = File::create(file("qemu.log")).map_err(io_error("create qemu.log"))?;

        let mut command = self.command(&directory);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        let child = Child::spawn(command).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => VmError::NoQemu { program: self.qemu.clone() },
            _ => VmError::Io { what: format!("start {}", self.qemu), source },
        })?;
        let pid = child.id();
        let mut start = Start { child, log: file("qemu.log"), deadline: Instant::now() + START_UP };
        let serial = start.accept(&listener)?;
        let place = self.heartbeats.listen(serial).map_err(io_error("read the serial port"))?;
        let mut qmp = start.connect_qmp(&file("raw-qmp.sock"))?;
        let incoming = match &self.incoming {
            None => None,
            Some(Incoming::Tcp) => Some(start.listening_port(&mut qmp)?),
            Some(Incoming::Unix) => Some(format!("unix:{}", file("incoming.sock").display())),
            Some(Incoming::Uri(uri)) => Some(uri.clone()),
        };
        if let Some(isolated_cpus) = self.isolated_cpus {
            for thread in vcpu_threads(&mut qmp)? {
                isolated_cpus
                    .confine_thread(thread)
                    .map_err(io_error("confine a vCPU to its CPU"))?;
            }
        }
        Ok(Vm { builder: self, child: Mutex::new(start.child), pid, directory, incoming, place })
    }

    fn directory(&self) -> Result<RunDirectory, VmError> {
        let directory = match &self.run_directory {
            Some(given) => {
                fs::create_dir_all(given).map_err(io_error("create the run directory"))?;
                RunDirectory::Given(given.clone())
            }
            None => {
                let made = tempfile::Builder::new().prefix("landfall-").tempdir();
                RunDirectory::Temporary(made.map_err(io_error("create a run directory"))?)
            }
        };
        let longest = directory.path().join("incoming.sock");
        if longest.as_os_str().len() > LONGEST_SOCKET {
            return Err(VmError::LongPath { directory: directory.path().display().to_string() });
        }
        Ok(directory)
    }

    fn command(&self, directory: &RunDirectory) -> Command {
        let GuestSpec { memory, vcpus, .. } = self.spec;
        let file = |name: &str| escape(&directory.path().join(name));
        let mebibytes = memory.0.div_ceil(Bytes::mib(1).0);
        let machine = match self.machine {
            MachineType::Pc => "pc",
            MachineType::Q35 => "q35",
        };
        let role = if self.incoming.is_some() { "destination" } else { "source" };
        // The same name on both sides, whatever the kind: QEMU matches memory by it.
        let backend = match &self.memory_file {
            None => format!("{},id=ram,size={mebibytes}M", self.memory_backend),
            Some(path) => format!(
                "memory-backend-file,id=ram,size={mebibytes}M,share=on,mem-path={}",
                escape(path)
            ),
        };

        let mut command = Command::new(&self.qemu);
        command.args(env::var("LANDFALL_QEMU_ARGS").unwrap_or_default().split_ascii_whitespace());
        command.args(["-name", &format!("guest=landfall-{role},debug-threads=on")]);
        command.args("-nodefaults -no-user-config -no-reboot -display none -nic none".split(' '));
        command.args(["-accel", &self.accel]);
        command.args(["-machine", &format!("{machine},memory-backend=ram")]);
        command.args(["-object", &backend]);
        command.args(["-m", &format!("{mebibytes}M"), "-smp", &vcpus.to_string()]);
        command.arg("-kernel").arg(directory.path().join("guest.elf"));
        command.args(["-append", &self.spec.command_line()]);
        command.args(["-chardev", &format!("socket,id=serial,path={}", file("serial.sock"))]);
        command.args(["-serial", "chardev:serial"]);
        for name in ["qmp", "raw-qmp"] {
            let path = file(&format!("{name}.sock"));
            let chardev = format!("socket,id={name},path={path},server=on,wait=off");
            command.args(["-chardev", &chardev, "-mon", &format!("chardev={name},mode=control")]);
        }
        match &self.incoming {
            None => {}
            Some(Incoming::Tcp) => _ = command.args(["-incoming", "tcp:127.0.0.1:0"]),
            Some(Incoming::Unix) => {
                let path = directory.path().join("incoming.sock");
                command.args(["-incoming", &format!("unix:{}", path.display())]);
            }
            Some(Incoming::Uri(uri)) => _ = command.args(["-incoming", uri]),
        }
        if self.paused {
            command.arg("-S");
        }
        command.args(&self.arguments);
        command
    }
}

/// A running QEMU. Ended, by its process id, when this is dropped or when this process dies.
#[derive(Debug)]
pub struct Vm {
    builder: VmBuilder,
    child: Mutex<Child>,
    pid: u32,
    directory: RunDirectory,
    incoming: Option<String>,
    place: QemuIndex,
}

impl Vm {
    /// A guest of this kind on a QEMU as the environment names it.
    pub fn builder(spec: &GuestSpec) -> VmBuilder {
        let from = |name, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());
        VmBuilder {
            spec: spec.clone(),
            qemu: from("LANDFALL_QEMU", "qemu-system-x86_64"),
            accel: from("LANDFALL_ACCEL", "tcg,thread=multi"),
            machine: MachineType::default(),
            incoming: None,
            paused: false,
            run_directory: None,
            memory_file: None,
            memory_backend: "memory-backend-ram".to_owned(),
            arguments: Vec::new(),
            heartbeats: Heartbeats::new(),
            isolated_cpus: None,
        }
    }

    /// A destination that fits this guest: the same machine, waiting on a free TCP port, its beats
    /// going into the same record.
    pub fn destination(&self) -> VmBuilder {
        VmBuilder {
            incoming: Some(Incoming::Tcp),
            paused: false,
            run_directory: None,
            memory_file: None,
            ..self.builder.clone()
        }
    }

    /// What the guest is.
    pub fn spec(&self) -> &GuestSpec {
        &self.builder.spec
    }

    /// QEMU's process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The monitor for the program under test.
    pub fn qmp_socket(&self) -> PathBuf {
        self.directory.path().join("qmp.sock")
    }

    /// The monitor for the harness; QEMU serves one client at a time on each.
    pub fn raw_qmp_socket(&self) -> PathBuf {
        self.directory.path().join("raw-qmp.sock")
    }

    /// The URI to migrate to, if this QEMU was started to wait for a guest.
    pub fn incoming(&self) -> Option<&str> {
        self.incoming.as_deref()
    }

    /// The record of the guest's beats, shared by all QEMUs it runs in.
    pub fn heartbeats(&self) -> &Heartbeats {
        &self.builder.heartbeats
    }

    /// How this QEMU is called in that record.
    pub fn qemu_index(&self) -> QemuIndex {
        self.place
    }

    /// A connection to the harness's monitor. QEMU serves one at a time: a second one, also that
    /// of [`Vm::vcpu_threads`], waits until the first is dropped.
    ///
    /// # Errors
    /// [`VmError::RawQmp`] if QEMU does not answer within 10 s.
    pub fn raw_qmp(&self) -> Result<RawQmp, VmError> {
        Ok(RawQmp::connect(&self.raw_qmp_socket(), Duration::from_secs(10))?)
    }

    /// The threads that run the vCPUs, in order; the same one for all under `thread=single`.
    ///
    /// # Errors
    /// As [`Vm::raw_qmp`].
    pub fn vcpu_threads(&self) -> Result<Vec<u32>, VmError> {
        vcpu_threads(&mut self.raw_qmp()?)
    }

    /// CPU time that one of QEMU's threads has had, by the kernel's count.
    ///
    /// # Errors
    /// [`VmError::Io`] if there is no such thread, or the kernel keeps no count.
    pub fn cpu_time(&self, thread: u32) -> Result<Duration, VmError> {
        let path = format!("/proc/{}/task/{thread}/schedstat", self.pid);
        let text = fs::read_to_string(&path).map_err(io_error(&format!("read {path}")))?;
        let nanoseconds = text.split_ascii_whitespace().next().and_then(|n| n.parse().ok());
        let unread = || io::Error::from(io::ErrorKind::InvalidData);
        nanoseconds.map(Duration::from_nanos).ok_or_else(unread).map_err(io_error("read schedstat"))
    }

    /// Whether QEMU still runs.
    pub fn is_running(&self) -> bool {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(child.ended(), Ok(None))
    }

    /// What QEMU has complained about so far.
    pub fn stderr(&self) -> String {
        read_log(&self.directory.path().join("qemu.log"))
    }
}

/// A QEMU that has been started and has not answered yet.
struct Start {
    child: Child,
    log: PathBuf,
    deadline: Instant,
}

impl Start {
    /// Waits for QEMU to connect its serial port.
    fn accept(&mut self, listener: &UnixListener) -> Result<UnixStream, VmError> {
        let accept = io_error("accept the guest's serial port");
        listener.set_nonblocking(true).map_err(io_error("listen for the guest's serial port"))?;
        let stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait_a_little()?,
                Err(error) => return Err(accept(error)),
            }
        };
        stream.set_nonblocking(false).map_err(accept)?;
        Ok(stream)
    }

    /// Waits until QEMU answers on its monitor: from then on all its sockets are there.
    fn connect_qmp(&mut self, socket: &Path) -> Result<RawQmp, VmError> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            match RawQmp::connect(socket, left.max(Duration::from_millis(1))) {
                Ok(qmp) => return Ok(qmp),
                Err(_) => self.wait_a_little()?,
            }
        }
    }

    /// The address QEMU listens on, once it does.
    fn listening_port(&mut self, qmp: &mut RawQmp) -> Result<String, VmError> {
        loop {
            let state = qmp.run("query-migrate")?;
            if let Some(port) = state["socket-address"][0]["port"].as_str() {
                return Ok(format!("tcp:127.0.0.1:{port}"));
            }
            self.wait_a_little()?;
        }
    }

    fn wait_a_little(&mut self) -> Result<(), VmError> {
        if let Some(status) = self.child.ended().map_err(io_error("wait for QEMU"))? {
            return Err(VmError::Died { status, stderr: read_log(&self.log) });
        }
        if Instant::now() > self.deadline {
            return Err(VmError::Silent { stderr: read_log(&self.log) });
        }
        thread::sleep(Duration::from_millis(2));
        Ok(())
    }
}

#[derive(Debug)]
enum RunDirectory {
    Temporary(TempDir),
    Given(PathBuf),
}

impl RunDirectory {
    fn path(&self) -> &Path {
        match self {
            RunDirectory::Temporary(directory) => directory.path(),
            RunDirectory::Given(path) => path,
        }
    }
}

fn vcpu_threads(qmp: &mut RawQmp) -> Result<Vec<u32>, VmError> {
    let cpus = qmp.run("query-cpus-fast")?;
    let thread = |cpu: &serde_json::Value| u32::try_from(cpu["thread-id"].as_u64()?).ok();
    Ok(cpus.as_array().into_iter().flatten().filter_map(thread).collect())
}

fn io_error(what: &str) -> impl Fn(io::Error) -> VmError + use<> {
    let what = what.to_owned();
    move |source| VmError::Io { what: what.clone(), source }
}

fn read_log(path: &Path) -> String {
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
    text.ok().filter(|text| !text.is_empty()).unwrap_or_else(|| "(it said nothing)".to_owned())
}

/// A path as QEMU's option parser takes it: commas doubled.
fn escape(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}
