//! What a core encrypts, decrypts and compresses in a second, by length of the run.
//!
//! `cargo run --release -p weft-qcow2 --example cluster_cost`

use std::time::Instant;

use weft_qcow2::compress::{compress, decompress};
use weft_qcow2::format::CompressionType;
use weft_qcow2::luks::{Algorithm, Area, Cipher, CreateOptions, Hash, IvKind, Mode, Spec, Work};

/// Bytes that each figure is made of.
const BYTES: usize = 512 << 20;

fn gigabytes_a_second(len: usize, mut work: impl FnMut(u64)) -> f64 {
    let rounds = (BYTES / len) as u64;
    let started = Instant::now();
    (0..rounds).for_each(&mut work);
    (rounds as usize * len) as f64 / started.elapsed().as_secs_f64() / 1e9
}

fn cipher(algorithm: Algorithm, mode: Mode) -> Result<Cipher, Box<dyn std::error::Error>> {
    let options = CreateOptions {
        spec: Spec::new(algorithm, mode, IvKind::Plain64)?,
        hash: Hash::Sha256,
    };
    // Speed does not depend on the key.
    let (area, key) = Area::create(options, b"", Work::iterations(1000)?, &mut |bytes| {
        for (number, byte) in bytes.iter_mut().enumerate() {
            *byte = number as u8;
        }
    })?;
    Ok(Cipher::new(area.header(), &key)?)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("GB/s of one core          bytes  encrypt  decrypt");
    for (algorithm, mode) in [
        (Algorithm::Aes256, Mode::Xts),
        (Algorithm::Aes128, Mode::Xts),
        (Algorithm::Aes256, Mode::Cbc),
    ] {
        let cipher = cipher(algorithm, mode)?;
        for len in [512, 4096, 65536, 1 << 20] {
            let mut data = vec![7; len];
            let encrypt = gigabytes_a_second(len, |sector| cipher.encrypt(sector, &mut data));
            let decrypt = gigabytes_a_second(len, |sector| cipher.decrypt(sector, &mut data));
            println!("{cipher:?}  {len:>7}  {encrypt:>7.2}  {decrypt:>7.2}");
        }
    }
    println!("\nGB/s of one core        cluster  compress  decompress");
    let words = b"arrays turn disks into one, groups turn arrays into volumes, ";
    for kind in [CompressionType::Zlib, CompressionType::Zstd] {
        let mut state = 1u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as usize
        };
        let plain: Vec<u8> = std::iter::repeat_with(|| words[next() % words.len()])
            .take(65536)
            .collect();
        let packed = compress(kind, &plain).ok_or("text shrinks")?;
        let mut back = vec![0; plain.len()];
        let rounds = 1000;
        let started = Instant::now();
        for _ in 0..rounds {
            compress(kind, &plain).ok_or("text shrinks")?;
        }
        let compressing = started.elapsed().as_secs_f64();
        let started = Instant::now();
        for _ in 0..rounds {
            decompress(kind, &packed, &mut back)?;
        }
        let bytes = (rounds * plain.len()) as f64 / 1e9;
        let decompressing = started.elapsed().as_secs_f64();
        println!(
            "{kind:?}                     65536  {:>8.3}  {:>10.3}",
            bytes / compressing,
            bytes / decompressing
        );
    }
    Ok(())
}
