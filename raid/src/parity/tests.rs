//! Every kernel against its twin.

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
        (kernel.xor)(&mut room[skew..skew + len], &sources, stream);
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

/// Both parities, and a sum in which every factor occurs sooner or later.
fn check_products(len: usize, count: usize, skew: usize, stream: bool) {
    let memory: Vec<Vec<u8>> = (0..count).map(|i| fill(len + 64, i as u64 + 1)).collect();
    let data: Vec<&[u8]> = memory
        .iter()
        .enumerate()
        .map(|(i, bytes)| &bytes[(skew + i) % 64..][..len])
        .collect();
    let terms: Vec<(u8, &[u8])> = (0..count)
        .map(|i| ((len * 31 + i * 7) as u8, data[i]))
        .collect();
    let (mut p, mut q, mut sum) = (vec![1; len], vec![2; len], vec![3; len]);
    scalar::syndrome(&mut p, &mut q, &data);
    scalar::sum(&mut sum, &terms);
    for kernel in kernels() {
        let mut rooms = [(); 3].map(|()| vec![0x55; len + 128]);
        let places = skew..skew + len;
        let [in_p, in_q, in_sum] = &mut rooms;
        // P and Q are aligned alike, or not.
        let q_places = places.start + len % 3..places.end + len % 3;
        let (to_p, to_q) = (&mut in_p[places.clone()], &mut in_q[q_places.clone()]);
        (kernel.syndrome)(to_p, to_q, &data, stream);
        (kernel.sum)(&mut in_sum[places.clone()], &terms, stream);
        assert_eq!(in_p[places.clone()], p, "P of {}", kernel.name);
        assert_eq!(in_q[q_places.clone()], q, "Q of {}", kernel.name);
        assert_eq!(in_sum[places.clone()], sum, "{}", kernel.name);
        for (room, places) in [(in_p, &places), (in_q, &q_places), (in_sum, &places)] {
            let mut around = room[..places.start].iter().chain(&room[places.end..]);
            assert!(around.all(|&byte| byte == 0x55), "{}", kernel.name);
        }
    }
}

#[test]
fn products_of_every_length_and_source_count_equal_the_twin() {
    for len in (0..300).chain([511, 512, 513, 4095, 4096, 4097, 65_536]) {
        for count in [0, 1, 2, 3, 4, 5, 9] {
            check_products(len, count, len % 60, len % 2 == 0);
        }
    }
}

#[test]
fn a_syndrome_is_the_sum_of_the_powers() {
    let data: Vec<Vec<u8>> = (0..5).map(|i| fill(3000, i)).collect();
    let sources: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    let (mut p, mut q) = (vec![0; 3000], vec![0; 3000]);
    syndrome(&mut p, &mut q, &sources);
    let terms: Vec<(u8, &[u8])> = (0..)
        .map(field::power)
        .zip(sources.iter().copied())
        .collect();
    let mut made = vec![0; 3000];
    sum(&mut made, &terms);
    assert_eq!(made, q);
    xor(&mut made, &sources);
    assert_eq!(made, p);
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
        check_products(len, count, skew, stream);
    }
}
