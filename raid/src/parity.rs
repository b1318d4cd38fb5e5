//! Parity by exclusive or, with the widest registers that the processor has.
//!
//! [`xor`] makes one block out of many: the parity of a row, a missing block out of the others, or a parity that a
//! changed block is taken out of and put into. What is used is found once at run time; [`scalar`] is the twin that
//! every other path must equal.

pub mod scalar;
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)] // A room of unsafe: vector registers and raw pointers over checked slices.
mod x86;

/// From this size of a destination on, and only if it and its sources together leave the second-level cache, the
/// result is stored past the caches: nobody reads parity soon, and the line need not be fetched to be overwritten.
/// 1 MiB is the smallest second-level cache of the machines in use.
const STREAM_BYTES: usize = 1 << 20;

/// `into` becomes the exclusive or of all `sources`. With no source it becomes zero.
///
/// # Panics
/// If a source is not as long as `into`.
pub fn xor(into: &mut [u8], sources: &[&[u8]]) {
    for source in sources {
        assert_eq!(
            source.len(),
            into.len(),
            "sources and result are equally long"
        );
    }
    let stream = into.len() * (sources.len() + 1) >= STREAM_BYTES;
    (kernel().run)(into, sources, stream);
}

/// The name of what [`xor`] runs on: `avx512`, `avx2`, `sse2` or `scalar`.
pub fn engine() -> &'static str {
    kernel().name
}

/// A way to compute [`xor`]. `sources` are as long as `into`; the flag asks for stores past the caches.
#[derive(Clone, Copy)]
struct Kernel {
    name: &'static str,
    run: fn(into: &mut [u8], sources: &[&[u8]], stream: bool),
}

const SCALAR: Kernel = Kernel {
    name: "scalar",
    run: |into, sources, _| scalar::xor(into, sources),
};

/// Every kernel that this processor can run, best first.
fn kernels() -> Vec<Kernel> {
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    found.extend(x86::kernels());
    found.push(SCALAR);
    found
}

fn kernel() -> Kernel {
    static BEST: std::sync::OnceLock<Kernel> = std::sync::OnceLock::new();
    *BEST.get_or_init(|| kernels().first().copied().unwrap_or(SCALAR))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fill(len: usize, seed: u64) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        (0..len)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect()
    }

    fn check(len: usize, count: usize, skew: usize, stream: bool) {
        let memory: Vec<Vec<u8>> = (0..count).map(|i| fill(len + 64, i as u64 + 1)).collect();
        let sources: Vec<&[u8]> = memory
            .iter()
            .enumerate()
            .map(|(i, bytes)| &bytes[(skew + i) % 64..][..len])
            .collect();
        let mut expected = vec![0xaa; len];
        scalar::xor(&mut expected, &sources);
        for kernel in kernels() {
            let mut room = vec![0x55; len + 128];
            (kernel.run)(&mut room[skew..skew + len], &sources, stream);
            assert_eq!(&room[skew..skew + len], &expected[..], "{}", kernel.name);
            let around = room[..skew].iter().chain(&room[skew + len..]);
            assert!(around.clone().all(|&byte| byte == 0x55), "{}", kernel.name);
        }
    }

    #[test]
    fn every_length_and_source_count_equals_the_twin() {
        for len in (0..300).chain([511, 512, 513, 4095, 4096, 4097, 65_536]) {
            for count in [0, 1, 2, 3, 4, 5, 9] {
                check(len, count, len % 64, len % 2 == 0);
            }
        }
    }

    #[test]
    fn parity_gives_back_what_is_missing() {
        let data: Vec<Vec<u8>> = (0..4).map(|i| fill(5000, i)).collect();
        let sources: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        let mut parity = vec![0; 5000];
        xor(&mut parity, &sources);
        let mut lost = vec![1; 5000];
        xor(&mut lost, &[&data[0], &data[1], &data[3], &parity]);
        assert_eq!(lost, data[2]);
    }

    #[test]
    #[should_panic(expected = "equally long")]
    fn sources_of_another_length_are_a_mistake() {
        xor(&mut [0; 4], &[&[0; 5]]);
    }

    proptest! {
        #[test]
        fn any_shape_equals_the_twin(len in 0_usize..20_000, count in 0_usize..12, skew in 0_usize..64, stream in any::<bool>()) {
            check(len, count, skew, stream);
        }
    }
}
