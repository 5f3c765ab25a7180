//! A guest whose use of memory is known, and which tells how its work goes.
//!
//! It boots by QEMU's `-kernel` (PVH), fills its memory, measures how fast it is, and then works
//! until it is killed: a beat on the serial port for every quantum of work done, and a complaint
//! for every word of memory that is not what it must be. `crates/testguest/src` is its other half.

#![no_std]
#![no_main]

mod apic;
mod boot;
mod clock;
mod cpu;
mod freestanding;
mod memory;
mod params;
mod serial;
mod start_info;
mod verify;
mod work;

use clock::Clock;
use core::fmt;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use memory::{Memory, PAGE};
use params::{Kind, Params};
use verify::Verification;
use work::{Plan, Worker};

/// Microseconds that an idle guest sleeps.
const IDLE_PERIOD: u64 = 10_000;

/// What all vCPUs share once the first of them has set it up.
struct Guest {
    params: Params,
    clock: Clock,
    memory: Memory,
    plan: Plan,
    verification: Verification,
}

/// The guest, for the vCPUs that are started later. It lives on the first one's stack, which is
/// never left.
static GUEST: AtomicPtr<Guest> = AtomicPtr::new(core::ptr::null_mut());
/// vCPUs that have come up.
static ARRIVED: AtomicU64 = AtomicU64::new(0);

/// Where every vCPU arrives from [`boot`]: the first with `start_info`, the others with 0.
extern "C" fn start(start_info: u32, vcpu: u32) -> ! {
    if start_info == 0 {
        ARRIVED.fetch_add(1, Ordering::Release);
        // SAFETY: the first vCPU stores the pointer before it starts another one, and then only
        // shares what it points to.
        match unsafe { GUEST.load(Ordering::Acquire).as_ref() } {
            Some(guest) => guest.run(vcpu as usize),
            None => cpu::halt_for_ever(),
        }
    }
    serial::set_up();
    serial::line(format_args!("landfall guest"));
    // SAFETY: this is what QEMU handed over, and nothing has been written but this image.
    let mut guest = match unsafe { Guest::set_up(start_info) } {
        Ok(guest) => guest,
        Err(why) => fatal(why),
    };
    GUEST.store(&mut guest, Ordering::Release);
    // From here on shared with the other vCPUs.
    let guest = &guest;
    serial::line(format_args!("{guest}"));
    if let Err(why) = guest.start_others() {
        fatal(why);
    }
    serial::line(format_args!("ready"));
    guest.run(vcpu as usize)
}

enum Refusal {
    Word(&'static str),
    Counts { vcpus: u64, dirtiers: u64, pages: u64 },
    Memory { needed: u64, end: u64 },
    Vcpu(u32),
}

fn fatal(why: Refusal) -> ! {
    match why {
        Refusal::Word(word) => serial::line(format_args!("FATAL cannot read {word:?}")),
        Refusal::Counts { vcpus, dirtiers, pages } => serial::line(format_args!(
            "FATAL vcpus={vcpus} dirtiers={dirtiers} pages={pages} do not go together"
        )),
        Refusal::Memory { needed, end } => serial::line(format_args!(
            "FATAL memory needed up to {needed:#x}, there up to {end:#x}"
        )),
        Refusal::Vcpu(vcpu) => serial::line(format_args!("FATAL vCPU {vcpu} does not start")),
    }
    cpu::halt_for_ever()
}

impl Guest {
    /// # Safety
    /// `start_info` is what QEMU handed over, and this is the only vCPU that runs.
    unsafe fn set_up(start_info: u32) -> Result<Self, Refusal> {
        // SAFETY: the caller's promise, for both.
        let (words, end) = unsafe {
            (start_info::command_line(start_info), start_info::memory_ends_at(start_info))
        };
        let params = params::parse(words).map_err(Refusal::Word)?;
        let Params { vcpus, dirtiers, .. } = params;
        let pages = params.working_set / PAGE;
        let vcpus_fit = (1..=boot::MAX_VCPUS as u64).contains(&vcpus);
        if !vcpus_fit || !(1..=vcpus).contains(&dirtiers) || pages < dirtiers {
            return Err(Refusal::Counts { vcpus, dirtiers, pages });
        }
        let end = end.unwrap_or(0);
        // SAFETY: from the end of this image to the end of memory nothing is in use, and boot.rs
        // has mapped the low 4 GiB, beyond which this memory does not go.
        let memory = unsafe { Memory::fill(&params, boot::image_ends_at(), end) }
            .map_err(|needed| Refusal::Memory { needed, end })?;
        let clock = Clock::calibrate();
        let plan = Plan::calibrate(&params, &clock, &memory);
        Ok(Self { params, clock, memory, plan, verification: Verification::default() })
    }

    fn start_others(&self) -> Result<(), Refusal> {
        // SAFETY: the command line has been read and copied; low memory is not needed any more.
        unsafe { apic::place_trampoline() };
        for vcpu in 1..self.params.vcpus as u32 {
            // SAFETY: the code has been placed, and no vCPU but the first has been started so far.
            unsafe { apic::start_vcpu(vcpu, &self.clock) };
            let arrived = || ARRIVED.load(Ordering::Acquire) >= u64::from(vcpu);
            let waits =
                (0..50_000).take_while(|_| !arrived()).map(|_| self.clock.wait(100)).count();
            if waits == 50_000 {
                return Err(Refusal::Vcpu(vcpu));
            }
        }
        Ok(())
    }

    fn run(&self, vcpu: usize) -> ! {
        let mut worker = Worker::new(vcpu, &self.params, &self.memory);
        let is_dirtier = (vcpu as u64) < self.params.dirtiers;
        let sleeps = self.params.kind == Kind::Idle;
        if sleeps {
            apic::start_timer(IDLE_PERIOD, &self.clock);
        }
        let mut verified = 0;
        loop {
            for phase in if is_dirtier { self.plan.phases } else { [self.plan.compute; 2] } {
                for _ in 0..phase.beats {
                    if sleeps {
                        cpu::halt_until_interrupt();
                    }
                    worker.work(phase.choice, &phase.pace, &self.memory);
                    serial::beat(vcpu);
                    if vcpu == 0 && serial::received() == Some(b'v') {
                        self.verification.ask(self.params.dirtiers);
                    }
                    if is_dirtier && self.verification.asked() != verified {
                        verified = self.verification.asked();
                        self.verify(&worker, vcpu);
                    }
                }
            }
        }
    }

    /// Checks this vCPU's pages; the first vCPU's also include the cold ones.
    fn verify(&self, worker: &Worker, vcpu: usize) {
        let Memory { pages, cold, .. } = self.memory;
        let cold = if vcpu == 0 { pages..pages + cold } else { pages..pages };
        let checked = worker.share().len() + cold.len();
        let errors = self.memory.verify(vcpu, worker.share()) + self.memory.verify(vcpu, cold);
        self.verification.add(checked as u64, errors);
    }
}

/// The header: one line of JSON that says what was set and what was measured.
impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { params, clock, memory, plan, .. } = self;
        write!(f, r#"{{"landfall_testguest":1,"kind":"{}","#, params.kind.name())?;
        write!(f, r#""vcpus":{},"dirtiers":{},"#, params.vcpus, params.dirtiers)?;
        write!(
            f,
            r#""base":{},"pages":{},"cold_pages":{},"#,
            memory.base(),
            memory.pages,
            memory.cold
        )?;
        write!(f, r#""tsc_khz":{},"spins_per_ms":{},"#, clock.tsc_khz, clock.spins(clock.tsc_khz))?;
        write!(f, r#""units":{{"per_beat":["#)?;
        for vcpu in 0..params.vcpus {
            let phase = if vcpu < params.dirtiers { &plan.phases[0] } else { &plan.compute };
            write!(f, "{}{}", if vcpu > 0 { "," } else { "" }, phase.pace.slices)?;
        }
        write!(f, r#"]}},"phases":["#)?;
        let several = params.kind == Kind::Phases;
        for (n, phase) in plan.phases[..1 + usize::from(several)].iter().enumerate() {
            let pace = &phase.pace;
            let beat_ns = pace.ticks * 1_000_000 / clock.tsc_khz;
            let pages_per_s = pace.slices * 1_000_000_000 / pace.every / beat_ns.max(1);
            write!(f, "{}", if n > 0 { "," } else { "" })?;
            write!(f, r#"{{"beat_ns":{beat_ns},"spins":{},"every":{},"#, pace.spins, pace.every)?;
            write!(f, r#""pages_per_s":{pages_per_s},"beats":{}}}"#, phase.beats)?;
        }
        write!(f, "]}}")
    }
}
