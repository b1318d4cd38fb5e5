//! Seccomp: which system calls each kind of thread can make.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use crate::error::{Context, ErrorKind, Result};

/// The kinds of threads, from the widest to the narrowest filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ThreadKind {
    /// Makes machines and starts the other threads; reads nothing of the guest.
    Supervisor,
    /// Serves control socket and console.
    Control,
    /// Talks to one back end.
    Device,
    /// Runs the guest and its device models.
    Cpu,
}

/// What every thread needs: memory, locks, time, its own end, and a panic's message.
const ALL: &[i64] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    // The standard library looks at a descriptor before it closes it.
    libc::SYS_fcntl,
    libc::SYS_futex,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_sched_yield,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_tgkill,
    libc::SYS_getrandom,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_rseq,
    // A later filter of the same thread, narrower than this one.
    libc::SYS_seccomp,
    libc::SYS_prctl,
];

const SOCKETS: &[i64] = &[
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_readv,
    libc::SYS_dup,
];

const CONTROL: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_accept,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_ftruncate,
];

const DEVICE: &[i64] = &[
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_setsockopt,
    libc::SYS_getsockopt,
    libc::SYS_eventfd2,
];

const SUPERVISOR: &[i64] = &[
    libc::SYS_openat,
    libc::SYS_open,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_lseek,
    libc::SYS_memfd_create,
    libc::SYS_mprotect,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_set_robust_list,
    libc::SYS_sched_getaffinity,
    libc::SYS_rt_sigaction,
];

/// `_IO(KVMIO, n)` and its kin: the request's second byte.
const KVM_IOCTLS: u64 = 0xae00;
const KVM_IOCTL_MASK: u64 = 0xff00;
const KVM_RUN: u64 = 0xae80;
const KVM_GET_REGS: u64 = 0x8090_ae81;
const KVM_KVMCLOCK_CTRL: u64 = 0xaead;
const KVM_IRQ_LINE: u64 = 0x4008_ae61;
const KVM_SET_GSI_ROUTING: u64 = 0x4008_ae6a;
const KVM_IRQFD: u64 = 0x4020_ae76;
const KVM_IOEVENTFD: u64 = 0x4040_ae79;
const FIONBIO: u64 = 0x5421;

impl ThreadKind {
    fn calls(self) -> Vec<&'static [i64]> {
        match self {
            Self::Supervisor => vec![ALL, SOCKETS, CONTROL, DEVICE, SUPERVISOR],
            Self::Control => vec![ALL, SOCKETS, CONTROL],
            Self::Device => vec![ALL, SOCKETS, DEVICE],
            Self::Cpu => vec![ALL],
        }
    }

    /// The ioctls: masks and values of their request number.
    fn ioctls(self) -> &'static [(u64, u64)] {
        const EXACT: u64 = 0xffff_ffff;
        match self {
            Self::Supervisor => &[(KVM_IOCTL_MASK, KVM_IOCTLS), (EXACT, FIONBIO)],
            Self::Control => &[(EXACT, FIONBIO), (EXACT, KVM_IRQ_LINE)],
            Self::Device => &[(EXACT, FIONBIO)],
            Self::Cpu => &[
                (EXACT, KVM_RUN),
                (EXACT, KVM_GET_REGS),
                (EXACT, KVM_KVMCLOCK_CTRL),
                (EXACT, KVM_IRQ_LINE),
                (EXACT, KVM_SET_GSI_ROUTING),
                (EXACT, KVM_IRQFD),
                (EXACT, KVM_IOEVENTFD),
            ],
        }
    }
}

/// The filter of a kind; what it does not allow leads to `otherwise`.
fn program(kind: ThreadKind, otherwise: SeccompAction) -> seccompiler::Result<BpfProgram> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = kind
        .calls()
        .concat()
        .into_iter()
        .map(|call| (call, Vec::new()))
        .collect();
    let ioctls = kind
        .ioctls()
        .iter()
        .map(|&(mask, value)| {
            let condition = SeccompCondition::new(
                1,
                SeccompCmpArgLen::Dword,
                SeccompCmpOp::MaskedEq(mask),
                value,
            )?;
            SeccompRule::new(vec![condition])
        })
        .collect::<Result<Vec<_>, seccompiler::BackendError>>()?;
    rules.insert(libc::SYS_ioctl, ioctls);
    let filter = SeccompFilter::new(rules, otherwise, SeccompAction::Allow, TargetArch::x86_64)?;
    Ok(filter.try_into()?)
}

/// Puts the filter of `kind` on the calling thread. A call that it does not allow ends the process (SIGSYS).
pub(super) fn apply(kind: ThreadKind) -> Result<()> {
    let refused = || format!("cannot filter the system calls of a {kind:?} thread");
    let program =
        program(kind, SeccompAction::KillProcess).context(ErrorKind::Sandbox, refused())?;
    seccompiler::apply_filter(&program).context(ErrorKind::Sandbox, refused())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [ThreadKind; 4] = [
        ThreadKind::Supervisor,
        ThreadKind::Control,
        ThreadKind::Device,
        ThreadKind::Cpu,
    ];

    /// The error number that stands in for death, so that a test survives its own proof.
    const MARK: u32 = 77;

    fn blocked(result: std::io::Result<impl Sized>) -> bool {
        result.is_err_and(|error| error.raw_os_error() == Some(MARK as i32))
    }

    /// Under the filter of `kind`: whether opening a file, making a socket, and naming the process are blocked.
    fn probe(kind: ThreadKind) -> (bool, bool, bool) {
        std::thread::spawn(move || {
            let program = program(kind, SeccompAction::Errno(MARK)).unwrap();
            seccompiler::apply_filter(&program).unwrap();
            let uname = nix::sys::utsname::uname();
            (
                blocked(std::fs::File::open("/dev/null")),
                blocked(std::os::unix::net::UnixDatagram::unbound()),
                uname.is_err_and(|error| error as i32 == MARK as i32),
            )
        })
        .join()
        .unwrap()
    }

    #[test]
    fn filters_are_active_and_narrow() {
        assert_eq!(probe(ThreadKind::Supervisor), (false, false, true));
        assert_eq!(probe(ThreadKind::Control), (true, true, true));
        assert_eq!(probe(ThreadKind::Device), (true, false, true));
        assert_eq!(probe(ThreadKind::Cpu), (true, true, true));
    }

    #[test]
    fn the_supervisor_can_start_every_kind() {
        let wide: Vec<i64> = ThreadKind::Supervisor.calls().concat();
        for kind in KINDS {
            for call in kind.calls().concat() {
                assert!(wide.contains(&call), "{kind:?} needs call {call}");
            }
        }
    }
}
