//! Processor time and memory of a process.

use std::fs;
use std::mem::MaybeUninit;
use std::time::Duration;

/// Returns the processor time that a process has used so far, in user and kernel mode.
///
/// Reads the process's CPU clock, which counts nanoseconds: `/proc/PID/stat` counts hundredths of
/// a second. The time does not grow while other processes keep the processor busy.
#[track_caller]
pub fn cpu_time(pid: u32) -> Duration {
    let pid = libc::pid_t::try_from(pid).expect("a process id");
    let mut clock: libc::clockid_t = 0;
    // SAFETY: the pointer is to a live `clockid_t`.
    let found = unsafe { libc::clock_getcpuclockid(pid, &mut clock) };
    assert_eq!(found, 0, "process {pid} has no CPU clock");
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the pointer is to a live `timespec`.
    let read = unsafe { libc::clock_gettime(clock, time.as_mut_ptr()) };
    assert_eq!(read, 0, "the CPU clock of process {pid} cannot be read");
    // SAFETY: clock_gettime has filled it in.
    let time = unsafe { time.assume_init() };
    let seconds = u64::try_from(time.tv_sec).expect("seconds");
    Duration::new(seconds, u32::try_from(time.tv_nsec).expect("nanoseconds"))
}

/// Returns the bytes of a process's memory that are resident (`VmRSS`).
#[track_caller]
pub fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    let kilobytes = line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
    kilobytes * 1024
}
