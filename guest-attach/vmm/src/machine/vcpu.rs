//! One thread for each virtual CPU.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::bus::Bus;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::memory::GuestRam;
use crate::sync::{Stop, StopCell, lock};

/// What the guest's CPUs are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Run,
    Pause,
    End,
}

/// The gate that each CPU passes before it enters the guest.
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    mode: Mode,
    /// CPUs that are in the guest or on the way.
    inside: usize,
}

/// What the gate says to a CPU.
#[derive(Debug, PartialEq, Eq)]
enum Pass {
    /// Into the guest.
    Enter,
    /// Into the guest, after a pause.
    EnterAgain,
    /// Home.
    End,
}

impl Gate {
    /// Waits while the CPUs are paused.
    fn pass(&self) -> Pass {
        let mut state = lock(&self.state);
        let mut pass = Pass::Enter;
        if state.mode == Mode::Pause {
            pass = Pass::EnterAgain;
            state.inside -= 1;
            self.changed.notify_all();
            while state.mode == Mode::Pause {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            state.inside += 1;
        }
        if state.mode == Mode::End {
            Pass::End
        } else {
            pass
        }
    }
}

/// A CPU's thread as the gate counts it: gone when this is dropped, whatever ends the thread.
struct Inside<'a> {
    gate: &'a Gate,
    stop: &'a StopCell,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text = "a CPU's thread has failed; the VM has stopped";
            self.stop
                .set(Stop::Failed(Error::new(ErrorKind::Kvm, text)));
        }
        lock(&self.gate.state).inside -= 1;
        self.gate.changed.notify_all();
    }
}

/// What a CPU's exits lead to.
pub(super) struct Board {
    pub(super) ports: Bus,
    pub(super) memory: Bus,
    pub(super) stop: Arc<StopCell>,
    /// Kept as long as a CPU's thread, which KVM needs it for.
    pub(super) _ram: Arc<GuestRam>,
}

/// All CPUs of one machine.
pub(super) struct Cpus {
    gate: Arc<Gate>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// How long a signal has time to take a CPU out of the guest before it is sent again. It is lost when it comes between the
/// gate and the guest.
const SIGNAL_AGAIN: Duration = Duration::from_millis(2);

extern "C" fn wake_up(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

impl Cpus {
    /// Starts a thread for each of `vcpus`. `prepare` runs in each of them first.
    pub(super) fn start(
        vcpus: Vec<VcpuFd>,
        board: &Arc<Board>,
        prepare: impl Fn() -> Result<()> + Clone + Send + 'static,
    ) -> Result<Self> {
        register_signal_handler(SIGRTMIN(), wake_up)
            .context(ErrorKind::Kvm, "no signal for the CPUs")?;
        let state = State {
            mode: Mode::Run,
            inside: vcpus.len(),
        };
        let gate = Arc::new(Gate {
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let mut threads = Vec::new();
        for (index, vcpu) in vcpus.into_iter().enumerate() {
            let (gate, board, prepare) = (gate.clone(), board.clone(), prepare.clone());
            let thread = Builder::new()
                .name(format!("cpu-{index}"))
                .spawn(move || {
                    let stop = &board.stop;
                    let _inside = Inside { gate: &gate, stop };
                    let ready = prepare().map_err(Stop::Failed);
                    if let Err(end) = ready.and_then(|()| run(vcpu, index, &gate, &board)) {
                        stop.set(end);
                    }
                })
                .context(ErrorKind::Kvm, format!("no thread for CPU {index}"))?;
            threads.push(thread);
        }
        Ok(Self {
            gate,
            threads: Mutex::new(threads),
        })
    }

    /// Changes what the CPUs do. Returns when none is in the guest any more, unless they are to run.
    pub(super) fn set(&self, mode: Mode) {
        let mut state = lock(&self.gate.state);
        if state.mode == Mode::End {
            return;
        }
        state.mode = mode;
        self.gate.changed.notify_all();
        while mode != Mode::Run && state.mode == mode && state.inside > 0 {
            for thread in lock(&self.threads).iter() {
                // Fails for a thread that has ended, which is what is wanted.
                let _ = thread.kill(SIGRTMIN());
            }
            state = self
                .gate
                .changed
                .wait_timeout(state, SIGNAL_AGAIN)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// What the CPUs do now.
    pub(super) fn mode(&self) -> Mode {
        lock(&self.gate.state).mode
    }

    /// Ends all threads.
    pub(super) fn end(&self) {
        self.set(Mode::End);
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            // A thread that panicked has told so already.
            let _ = thread.join();
        }
    }
}

/// Runs CPU `index` until the gate says no, or the machine stops.
fn run(mut vcpu: VcpuFd, index: usize, gate: &Gate, board: &Board) -> Result<(), Stop> {
    loop {
        match gate.pass() {
            Pass::End => return Ok(()),
            // Tells the guest's watchdogs that its time stood still. KVM refuses where the guest has no such clock.
            Pass::EnterAgain => drop(vcpu.kvmclock_ctrl()),
            Pass::Enter => {}
        }
        match vcpu.run() {
            Ok(exit) => match handle(exit, board) {
                Next::Run => {}
                Next::Stop(stop) => return Err(stop),
                Next::Failed(what) => return Err(Stop::Failed(crash(&vcpu, index, what))),
            },
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {}
            Err(error) => {
                let error = Error::new(ErrorKind::Kvm, format!("CPU {index} cannot run"))
                    .with_source(error);
                return Err(Stop::Failed(error));
            }
        }
    }
}

enum Next {
    Run,
    Stop(Stop),
    Failed(String),
}

fn handle(exit: VcpuExit<'_>, board: &Board) -> Next {
    match exit {
        VcpuExit::IoIn(port, data) => board.ports.read(u64::from(port), data),
        VcpuExit::IoOut(port, data) => board.ports.write(u64::from(port), data),
        VcpuExit::MmioRead(address, data) => board.memory.read(address, data),
        VcpuExit::MmioWrite(address, data) => board.memory.write(address, data),
        VcpuExit::Intr | VcpuExit::Hlt | VcpuExit::IrqWindowOpen => {}
        // A triple fault resets a real machine too.
        VcpuExit::Shutdown => return Next::Stop(Stop::Reset),
        other => return Next::Failed(format!("{other:?}")),
    }
    Next::Run
}

fn crash(vcpu: &VcpuFd, index: usize, what: String) -> Error {
    let place = vcpu
        .get_regs()
        .map_or_else(|_| String::new(), |regs| format!(" at {:#x}", regs.rip));
    Error::new(
        ErrorKind::Guest,
        format!(
            "the guest's CPU {index} is in a state that KVM cannot run{place} ({what}); the VM has stopped"
        ),
    )
}
