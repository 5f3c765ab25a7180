//! The local APIC: starting the other vCPUs, and the timer that wakes an idle one.

use crate::boot::{TRAMPOLINE, trampoline};
use crate::clock::Clock;
use crate::cpu::outb;
use core::arch::{asm, naked_asm};
use core::cell::UnsafeCell;

const BASE: u64 = 0xfee0_0000;
const END_OF_INTERRUPT: u64 = 0xb0;
const SPURIOUS: u64 = 0xf0;
const COMMAND: u64 = 0x300;
const COMMAND_TARGET: u64 = 0x310;
const TIMER: u64 = 0x320;
const TIMER_COUNT: u64 = 0x380;
const TIMER_NOW: u64 = 0x390;
const TIMER_DIVISOR: u64 = 0x3e0;

/// Mask registers of the two 8259s.
const OLD_CONTROLLER_1: u16 = 0x21;
const OLD_CONTROLLER_2: u16 = 0xa1;

const ENABLED: u32 = 1 << 8;
const PERIODIC: u32 = 1 << 17;
const INIT: u32 = 0x4500;
const START_UP: u32 = 0x4600;
const BY_16: u32 = 0b0011;

const TIMER_VECTOR: u8 = 0x20;
const SPURIOUS_VECTOR: u8 = 0xff;

/// Puts the real-mode code where a start-up IPI finds it.
///
/// # Safety
/// Nothing that is still needed lies at [`TRAMPOLINE`].
pub unsafe fn place_trampoline() {
    let code = trampoline();
    // SAFETY: the caller's promise; the page is mapped and holds more than the code's length.
    unsafe { core::ptr::copy_nonoverlapping(code.as_ptr(), TRAMPOLINE as *mut u8, code.len()) }
}

/// Starts vCPU `cpu`, which then runs [`crate::start`]. The caller sees to it that it arrived.
///
/// # Safety
/// [`place_trampoline`] has been called, and `cpu` is not running.
pub unsafe fn start_vcpu(cpu: u32, clock: &Clock) {
    // SAFETY: as the start-up protocol of Intel's manual has it: INIT, 10 ms, start-up.
    unsafe {
        write(COMMAND_TARGET, cpu << 24);
        write(COMMAND, INIT);
        clock.wait(10_000);
        write(COMMAND_TARGET, cpu << 24);
        write(COMMAND, START_UP | (TRAMPOLINE >> 12) as u32);
    }
}

/// Makes this vCPU's timer interrupt it every `period` microseconds, for
/// [`crate::cpu::halt_until_interrupt`].
pub fn start_timer(period: u64, clock: &Clock) {
    const ROUND: u64 = 2_000;
    // SAFETY: this vCPU's own APIC; the table is loaded before the first interrupt can be taken,
    // and the firmware's timer, which would come in by an exception's vector, is masked.
    unsafe {
        load_interrupt_table();
        outb(OLD_CONTROLLER_1, 0xff);
        outb(OLD_CONTROLLER_2, 0xff);
        write(SPURIOUS, ENABLED | u32::from(SPURIOUS_VECTOR));
        write(TIMER_DIVISOR, BY_16);
        write(TIMER_COUNT, u32::MAX);
        clock.wait(ROUND);
        let counted = u64::from(u32::MAX - read(TIMER_NOW));
        write(TIMER, PERIODIC | u32::from(TIMER_VECTOR));
        write(TIMER_COUNT, (counted * period / ROUND).clamp(1, u64::from(u32::MAX)) as u32);
    }
}

unsafe fn write(register: u64, value: u32) {
    // SAFETY: the caller knows the register; the APIC's page is mapped, uncached.
    unsafe { ((BASE + register) as *mut u32).write_volatile(value) }
}

unsafe fn read(register: u64) -> u32 {
    // SAFETY: as for `write`.
    unsafe { ((BASE + register) as *const u32).read_volatile() }
}

#[repr(C, align(16))]
struct InterruptTable(UnsafeCell<[[u64; 2]; 256]>);

// SAFETY: every vCPU writes the same values, and the CPUs read an entry only when its interrupt
// comes, which is after the vCPU concerned has written it.
unsafe impl Sync for InterruptTable {}

static INTERRUPTS: InterruptTable = InterruptTable(UnsafeCell::new([[0; 2]; 256]));

/// Everything but the timer and the spurious vector is left out: another interrupt is a bug here,
/// and resets the guest.
unsafe fn load_interrupt_table() {
    let handlers =
        [(TIMER_VECTOR, on_timer as *const ()), (SPURIOUS_VECTOR, on_spurious as *const ())];
    for (vector, handler) in handlers {
        let address = handler as u64;
        const CODE_SEGMENT: u64 = 0x08 << 16;
        const GATE: u64 = 0x8e00 << 32;
        let low = address & 0xffff | CODE_SEGMENT | GATE | (address >> 16 & 0xffff) << 48;
        let entry = INTERRUPTS.0.get().cast::<[u64; 2]>().wrapping_add(usize::from(vector));
        // SAFETY: inside the table, see there.
        unsafe { entry.write_volatile([low, address >> 32]) };
    }
    #[repr(C, packed)]
    struct Register {
        limit: u16,
        table: *const InterruptTable,
    }
    let register = Register { limit: 256 * 16 - 1, table: &INTERRUPTS };
    // SAFETY: describes the table, which is never moved.
    unsafe { asm!("lidt [{}]", in(reg) &register, options(nostack, readonly)) };
}

/// Says that the interrupt was served; the halted code does the work itself.
#[unsafe(naked)]
extern "C" fn on_timer() {
    naked_asm!(
        "push rax",
        "mov eax, {register}",
        "mov dword ptr [rax], 0",
        "pop rax",
        "iretq",
        register = const BASE + END_OF_INTERRUPT,
    )
}

/// A spurious interrupt is not to be acknowledged.
#[unsafe(naked)]
extern "C" fn on_spurious() {
    naked_asm!("iretq")
}
