//! Which engine runs a machine, and whether its kernel file is one.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::api::{Engine, Error, ErrorKind, Result};

/// The engine that `asked` comes to on this host, and why.
///
/// The platform VMM needs hardware virtualization: a `/dev/kvm` without the CPU's vmx or svm flag is a software kind
/// that cannot boot Linux.
///
/// # Errors
/// `Unsupported` if the platform VMM was asked for by name and cannot run here.
pub fn choose(asked: Engine) -> Result<(Engine, String)> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let kvm = File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .map(drop);
    decide(asked, has_virtualization(&cpuinfo), kvm)
}

/// Whether QEMU should use KVM on this host.
pub fn qemu_uses_kvm() -> bool {
    matches!(choose(Engine::Auto), Ok((Engine::Kvm, _)))
}

fn has_virtualization(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .flat_map(str::split_ascii_whitespace)
        .any(|flag| flag == "vmx" || flag == "svm")
}

fn decide(asked: Engine, flag: bool, kvm: std::io::Result<()>) -> Result<(Engine, String)> {
    let lacking = match (flag, &kvm) {
        (_, Err(error)) => Some(format!("/dev/kvm does not open: {error}")),
        (false, Ok(())) => Some("the CPU shows no vmx or svm flag".to_owned()),
        (true, Ok(())) => None,
    };
    match (asked, lacking) {
        (Engine::Qemu, _) => Ok((Engine::Qemu, "asked for".to_owned())),
        (Engine::Auto | Engine::Kvm, None) => {
            Ok((Engine::Kvm, "hardware virtualization is there".to_owned()))
        }
        (Engine::Auto, Some(lacking)) => Ok((Engine::Qemu, lacking)),
        (Engine::Kvm, Some(lacking)) => Err(Error::general(
            ErrorKind::Unsupported,
            format!("the platform VMM cannot run here: {lacking}; use --engine qemu"),
        )),
    }
}

/// Whether the file at `path` looks like a kernel that both engines boot.
///
/// # Errors
/// `NotFound`, `Permission`, or `Invalid` naming what the file is not.
pub fn check_kernel(path: &str) -> Result<()> {
    let failed = |error| Error::from_io(path, &format!("kernel {path} cannot be read"), &error);
    let file = File::open(Path::new(path)).map_err(failed)?;
    // The bzImage's "HdrS" stands at 0x202 (Linux Documentation/arch/x86/boot.rst, "The real-mode kernel header").
    let mut head = Vec::with_capacity(0x206);
    file.take(0x206).read_to_end(&mut head).map_err(failed)?;
    let is_bzimage = head.get(0x202..0x206) == Some(b"HdrS");
    let is_elf = head.starts_with(b"\x7fELF");
    if is_bzimage || is_elf {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Invalid,
        path,
        format!("{path} is no kernel: it is neither a bzImage nor an ELF vmlinux"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_and_the_device_decide() {
        let gone = || Err(std::io::Error::from_raw_os_error(2));
        assert_eq!(decide(Engine::Auto, true, Ok(())).unwrap().0, Engine::Kvm);
        assert_eq!(decide(Engine::Auto, false, Ok(())).unwrap().0, Engine::Qemu);
        assert_eq!(decide(Engine::Auto, true, gone()).unwrap().0, Engine::Qemu);
        assert_eq!(decide(Engine::Qemu, true, Ok(())).unwrap().0, Engine::Qemu);
        let refused = decide(Engine::Kvm, false, Ok(())).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Unsupported);
        assert!(has_virtualization("flags\t\t: fpu svm lahf"));
        assert!(!has_virtualization("flags : fpu svm_lock\nmodel : vmx"));
    }

    #[test]
    fn a_file_that_is_no_kernel_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("readme");
        std::fs::write(&path, "not a kernel").unwrap();
        let path = path.to_str().unwrap();
        let error = check_kernel(path).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(error.message.starts_with(path));
        assert_eq!(
            check_kernel("/nowhere/k").unwrap_err().kind,
            ErrorKind::NotFound
        );
    }
}
