//! CPUID: what the host offers, with the parts that depend on which virtual CPU it is.
//!
//! Leaves are those of Intel's SDM volume 2 (CPUID) and AMD's APM volume 3 appendix E. The topology is one socket of
//! `count` cores with one thread each.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

const LEAF_FEATURES: u32 = 1;
const LEAF_CACHES: u32 = 4;
const LEAF_TOPOLOGY: u32 = 0xb;
const LEAF_TOPOLOGY_V2: u32 = 0x1f;
const LEAF_AMD_SIZES: u32 = 0x8000_0008;
const LEAF_AMD_CACHES: u32 = 0x8000_001d;
const LEAF_AMD_TOPOLOGY: u32 = 0x8000_001e;

const ECX_TSC_DEADLINE: u32 = 1 << 24;
const ECX_HYPERVISOR: u32 = 1 << 31;
const EDX_HTT: u32 = 1 << 28;

const LEVEL_SMT: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// Fits the host's `entries` to CPU `index` of `count`.
pub(super) fn adapt(
    entries: &mut Vec<kvm_cpuid_entry2>,
    index: u32,
    count: u32,
    tsc_deadline: bool,
) {
    let has_topology = entries.iter().any(|entry| entry.function == LEAF_TOPOLOGY);
    entries.retain(|entry| !matches!(entry.function, LEAF_TOPOLOGY | LEAF_TOPOLOGY_V2));
    for entry in entries.iter_mut() {
        adapt_entry(entry, index, count, tsc_deadline);
    }
    if has_topology {
        entries.extend(topology(index, count));
    }
}

fn adapt_entry(entry: &mut kvm_cpuid_entry2, index: u32, count: u32, tsc_deadline: bool) {
    match entry.function {
        LEAF_FEATURES => {
            entry.ebx = (entry.ebx & 0xffff) | index << 24 | count << 16;
            entry.ecx |= ECX_HYPERVISOR;
            set(&mut entry.ecx, ECX_TSC_DEADLINE, tsc_deadline);
            set(&mut entry.edx, EDX_HTT, count > 1);
        }
        // Bits 25:14: the CPUs that share the cache (minus one); bits 31:26: cores in the package (minus one).
        LEAF_CACHES if entry.eax & 0x1f != 0 => {
            let shared = if is_shared_cache(entry.eax) { count } else { 1 };
            entry.eax = (entry.eax & 0x3fff) | (shared - 1) << 14 | (count.min(64) - 1) << 26;
        }
        LEAF_AMD_CACHES if entry.eax & 0x1f != 0 => {
            let shared = if is_shared_cache(entry.eax) { count } else { 1 };
            entry.eax = (entry.eax & 0x3fff) | (shared - 1) << 14;
        }
        // ECX 7:0: threads in the package (minus one); 15:12: bits of the APIC number that tell cores apart.
        LEAF_AMD_SIZES => entry.ecx = (entry.ecx & !0xf0ff) | core_bits(count) << 12 | (count - 1),
        // EAX: the extended APIC number; EBX 15:8: threads in a core (minus one), 7:0: the core; ECX: the node.
        LEAF_AMD_TOPOLOGY => (entry.eax, entry.ebx, entry.ecx) = (index, index, 0),
        _ => {}
    }
}

fn set(register: &mut u32, bit: u32, on: bool) {
    *register = if on {
        *register | bit
    } else {
        *register & !bit
    };
}

/// Caches of level 3 and up are the socket's.
fn is_shared_cache(eax: u32) -> bool {
    eax >> 5 & 7 >= 3
}

/// How many bits of the APIC number tell `count` cores apart.
fn core_bits(count: u32) -> u32 {
    count.next_power_of_two().trailing_zeros()
}

/// Leaf 0xb: the level of threads, the level of cores, the end.
fn topology(index: u32, count: u32) -> [kvm_cpuid_entry2; 3] {
    let levels = [
        (0, 1, LEVEL_SMT),
        (core_bits(count), count, LEVEL_CORE),
        (0, 0, 0),
    ];
    let mut subleaf = 0;
    levels.map(|(shift, cpus, kind)| {
        let entry = kvm_cpuid_entry2 {
            function: LEAF_TOPOLOGY,
            index: subleaf,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax: shift,
            ebx: cpus,
            ecx: kind << 8 | subleaf,
            edx: index,
            ..Default::default()
        };
        subleaf += 1;
        entry
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            ..Default::default()
        }
    }

    fn find(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        *entries
            .iter()
            .find(|entry| (entry.function, entry.index) == (function, index))
            .unwrap()
    }

    #[test]
    fn a_cpu_knows_its_number_and_its_siblings() {
        let mut entries = vec![
            leaf(LEAF_FEATURES, 0),
            leaf(LEAF_TOPOLOGY, 0),
            leaf(LEAF_TOPOLOGY, 1),
            leaf(LEAF_AMD_SIZES, 0),
            leaf(LEAF_AMD_TOPOLOGY, 0),
        ];
        adapt(&mut entries, 1, 2, true);
        let features = find(&entries, LEAF_FEATURES, 0);
        assert_eq!((features.ebx >> 24, features.ebx >> 16 & 0xff), (1, 2));
        assert_eq!(features.edx & EDX_HTT, EDX_HTT);
        assert_eq!(features.ecx, ECX_HYPERVISOR | ECX_TSC_DEADLINE);
        let cores = find(&entries, LEAF_TOPOLOGY, 1);
        assert_eq!(
            (cores.eax, cores.ebx, cores.ecx, cores.edx),
            (1, 2, 0x201, 1)
        );
        assert_eq!(find(&entries, LEAF_TOPOLOGY, 0).ebx, 1);
        assert_eq!(find(&entries, LEAF_AMD_SIZES, 0).ecx, 0x1001);
        assert_eq!(find(&entries, LEAF_AMD_TOPOLOGY, 0).ebx, 1);
    }

    #[test]
    fn one_cpu_has_no_siblings() {
        let mut entries = vec![leaf(LEAF_FEATURES, 0)];
        entries[0].edx = EDX_HTT;
        entries[0].ecx = ECX_TSC_DEADLINE;
        adapt(&mut entries, 0, 1, false);
        assert_eq!(entries[0].edx & EDX_HTT, 0);
        assert_eq!(entries[0].ecx, ECX_HYPERVISOR);
        assert_eq!(entries.len(), 1, "no topology leaf where the host has none");
    }

    #[test]
    fn private_caches_stay_private() {
        let mut entries = vec![
            leaf(LEAF_CACHES, 0),
            leaf(LEAF_CACHES, 3),
            leaf(LEAF_CACHES, 4),
        ];
        entries[0].eax = 0xfc00_4121;
        entries[1].eax = 0xfc1f_c163;
        adapt(&mut entries, 0, 4, true);
        assert_eq!(entries[0].eax >> 14 & 0xfff, 0);
        assert_eq!(entries[1].eax >> 14 & 0xfff, 3);
        assert_eq!(entries[1].eax >> 26, 3);
        assert_eq!(entries[2].eax, 0, "the end of the list stays the end");
    }
}
