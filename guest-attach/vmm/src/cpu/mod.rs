//! A virtual CPU as the kernel's entry expects it: CPUID, model-specific registers, segments, page tables.

mod cpuid;
mod entry;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_cpuid_entry2, kvm_msr_entry, kvm_xcrs};
use kvm_ioctls::{Cap, Kvm, VcpuFd};

use crate::boot::Entry;
use crate::error::{Context, Error, ErrorKind, Result};

pub(crate) use entry::write_tables;

/// What the host's KVM offers to every CPU of a VM.
pub(crate) struct HostCpu {
    supported: CpuId,
    tsc_deadline: bool,
}

impl HostCpu {
    /// Asks KVM.
    pub(crate) fn probe(kvm: &Kvm) -> Result<Self> {
        let supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .context(ErrorKind::Kvm, "KVM does not tell its CPUID")?;
        Ok(Self {
            supported,
            tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer),
        })
    }
}

const MSR_IA32_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs enabled, everything write-back.
const MTRR_WRITE_BACK: u64 = 1 << 11 | 6;

/// Prepares CPU `index` of `count`. Only the first gets the kernel's entry: it starts the others itself.
pub(crate) fn set_up(
    vcpu: &VcpuFd,
    host: &HostCpu,
    index: u32,
    count: u32,
    entry: Option<Entry>,
) -> Result<()> {
    let refused = |what: &str| format!("KVM refuses the {what} of CPU {index}");
    let mut entries = host.supported.as_slice().to_vec();
    cpuid::adapt(&mut entries, index, count, host.tsc_deadline);
    let table = CpuId::from_entries(&entries)
        .map_err(|error| Error::new(ErrorKind::Kvm, format!("too much CPUID: {error:?}")))?;
    vcpu.set_cpuid2(&table)
        .context(ErrorKind::Kvm, refused("CPUID"))?;
    enable_state(vcpu, &entries).context(ErrorKind::Kvm, refused("extended state"))?;
    set_msrs(vcpu).context(ErrorKind::Kvm, refused("model-specific registers"))?;
    if let Some(entry) = entry {
        entry::set_registers(vcpu, entry).context(ErrorKind::Kvm, refused("registers"))?;
    }
    Ok(())
}

/// The leaf that lists the state components which XSAVE knows.
const LEAF_EXTENDED_STATE: u32 = 0xd;

/// Starts the CPU with all state components enabled that it offers, in place of x87 alone.
///
/// A kernel enables what it uses anyhow, so on hardware this changes nothing. Emulated SVM (QEMU's TCG) does not tell KVM of
/// the guest's XSETBV; KVM would go on to put its own idea of XCR0 back at each entry, and take AVX away from the guest.
fn enable_state(
    vcpu: &VcpuFd,
    entries: &[kvm_cpuid_entry2],
) -> std::result::Result<(), kvm_ioctls::Error> {
    let leaf =
        |entry: &&kvm_cpuid_entry2| (entry.function, entry.index) == (LEAF_EXTENDED_STATE, 0);
    let Some(components) = entries.iter().find(leaf).filter(|entry| entry.eax != 0) else {
        return Ok(());
    };
    let mut xcrs = kvm_xcrs {
        nr_xcrs: 1,
        ..Default::default()
    };
    xcrs.xcrs[0].value = u64::from(components.edx) << 32 | u64::from(components.eax);
    vcpu.set_xcrs(&xcrs)
}

fn set_msrs(vcpu: &VcpuFd) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let entries = [
        (MSR_MTRR_DEF_TYPE, MTRR_WRITE_BACK),
        (MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
    ]
    .map(|(index, data)| kvm_msr_entry {
        index,
        data,
        reserved: 0,
    });
    let msrs = Msrs::from_entries(&entries).map_err(|error| format!("{error:?}"))?;
    let set = vcpu.set_msrs(&msrs)?;
    match entries.get(set) {
        None => Ok(()),
        Some(entry) => Err(format!("MSR {:#x} is not known", entry.index).into()),
    }
}
