//! XTS (IEEE 1619-2007), whole sectors, many blocks at once.
//!
//! Written here, because the crate for it hands eight blocks at most to the cipher and doubles each tweak between them:
//! it was measured at a fifth of this.

use cipher::consts::U16;
use cipher::{
    BlockCipherDecBackend, BlockCipherDecClosure, BlockCipherDecrypt, BlockCipherEncBackend,
    BlockCipherEncClosure, BlockCipherEncrypt, BlockSizeUser, ParBlocks,
};

use super::SECTOR_BYTES;
use super::cipher::Sectors;
use super::iv::{Block, Iv};

const SECTOR_BLOCKS: usize = SECTOR_BYTES / 16;

/// Sectors whose tweaks are worked out side by side; their blocks fill what the widest processor does at once.
const GROUP: usize = 8;

/// Sectors whose first tweaks are encrypted together.
const RUN: usize = 64;

/// Two keys of a cipher in XTS mode.
pub(super) struct Xts<C> {
    pub(super) data: C,
    pub(super) tweak: C,
    pub(super) iv: Iv,
}

impl<C> Sectors for Xts<C>
where
    C: BlockCipherEncrypt + BlockCipherDecrypt + BlockSizeUser<BlockSize = U16> + Send + Sync,
{
    fn encrypt(&self, first: u64, data: &mut [u8]) {
        self.each_run(first, data, |run| self.data.encrypt_with_backend(run));
    }

    fn decrypt(&self, first: u64, data: &mut [u8]) {
        self.each_run(first, data, |run| self.data.decrypt_with_backend(run));
    }
}

impl<C: BlockCipherEncrypt + BlockSizeUser<BlockSize = U16>> Xts<C> {
    fn each_run(&self, first: u64, data: &mut [u8], mut work: impl FnMut(Run)) {
        let firsts = (first..).step_by(RUN);
        for (sector, data) in firsts.zip(data.chunks_mut(RUN * SECTOR_BYTES)) {
            let mut tweaks = [Block::default(); RUN];
            let tweaks = &mut tweaks[..data.len() / SECTOR_BYTES];
            self.iv.fill(sector, tweaks);
            self.tweak.encrypt_with_backend(Tweaks(tweaks));
            work(Run { tweaks, data });
        }
    }
}

/// The first tweaks of a run's sectors, to be encrypted.
struct Tweaks<'a>(&'a mut [Block]);

impl BlockSizeUser for Tweaks<'_> {
    type BlockSize = U16;
}

impl BlockCipherEncClosure for Tweaks<'_> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, backend: &B) {
        encrypt(backend, self.0);
    }
}

/// Sectors and their first tweaks. Everything is done inside the cipher's own call, where the compiler may use the
/// instructions that the cipher found.
struct Run<'a> {
    tweaks: &'a [Block],
    data: &'a mut [u8],
}

impl BlockSizeUser for Run<'_> {
    type BlockSize = U16;
}

impl BlockCipherEncClosure for Run<'_> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, backend: &B) {
        each_group(
            self,
            #[inline(always)]
            |blocks| encrypt(backend, blocks),
        );
    }
}

impl BlockCipherDecClosure for Run<'_> {
    #[inline(always)]
    fn call<B: BlockCipherDecBackend<BlockSize = U16>>(self, backend: &B) {
        each_group(
            self,
            #[inline(always)]
            |blocks| decrypt(backend, blocks),
        );
    }
}

#[inline(always)]
fn each_group(run: Run, mut work: impl FnMut(&mut [Block])) {
    let mut tweaks = [0; GROUP * SECTOR_BLOCKS];
    let groups = run.data.chunks_mut(GROUP * SECTOR_BYTES);
    for (data, firsts) in groups.zip(run.tweaks.chunks(GROUP)) {
        expand(firsts, &mut tweaks);
        let (blocks, _) = Block::slice_as_chunks_mut(data);
        mix(blocks, &tweaks);
        work(blocks);
        mix(blocks, &tweaks);
    }
}

/// The tweaks of all blocks of up to [`GROUP`] sectors: each is the one before it doubled in GF(2^128) (clause 5.2).
#[inline(always)]
fn expand(firsts: &[Block], tweaks: &mut [u128; GROUP * SECTOR_BLOCKS]) {
    let mut low = [0u64; GROUP];
    let mut high = [0u64; GROUP];
    for (sector, first) in firsts.iter().enumerate() {
        let first = u128::from_le_bytes(first.0);
        (low[sector], high[sector]) = (first as u64, (first >> 64) as u64);
    }
    for block in 0..SECTOR_BLOCKS {
        for sector in 0..GROUP {
            let (l, h) = (low[sector], high[sector]);
            tweaks[sector * SECTOR_BLOCKS + block] = u128::from(h) << 64 | u128::from(l);
            let carry = ((h as i64) >> 63) as u64 & 0x87;
            (low[sector], high[sector]) = (l << 1 ^ carry, h << 1 | l >> 63);
        }
    }
}

#[inline(always)]
fn mix(blocks: &mut [Block], tweaks: &[u128]) {
    for (block, tweak) in blocks.iter_mut().zip(tweaks) {
        block.0 = (u128::from_le_bytes(block.0) ^ tweak).to_le_bytes();
    }
}

/// Whether so few blocks are worth a pass that has room for `width`. One pass costs what some four blocks alone do.
#[inline(always)]
fn fills_a_pass(blocks: usize, width: usize) -> bool {
    blocks * 16 > width && width > 1
}

#[inline(always)]
fn encrypt<B: BlockCipherEncBackend<BlockSize = U16>>(backend: &B, blocks: &mut [Block]) {
    let (passes, rest) = ParBlocks::<B>::slice_as_chunks_mut(blocks);
    for pass in passes {
        backend.encrypt_par_blocks_inplace(pass);
    }
    let mut pass = ParBlocks::<B>::default();
    if fills_a_pass(rest.len(), pass.len()) {
        pass[..rest.len()].copy_from_slice(rest);
        backend.encrypt_par_blocks_inplace(&mut pass);
        rest.copy_from_slice(&pass[..rest.len()]);
    } else {
        backend.encrypt_tail_blocks_inplace(rest);
    }
}

#[inline(always)]
fn decrypt<B: BlockCipherDecBackend<BlockSize = U16>>(backend: &B, blocks: &mut [Block]) {
    let (passes, rest) = ParBlocks::<B>::slice_as_chunks_mut(blocks);
    for pass in passes {
        backend.decrypt_par_blocks_inplace(pass);
    }
    let mut pass = ParBlocks::<B>::default();
    if fills_a_pass(rest.len(), pass.len()) {
        pass[..rest.len()].copy_from_slice(rest);
        backend.decrypt_par_blocks_inplace(&mut pass);
        rest.copy_from_slice(&pass[..rest.len()]);
    } else {
        backend.decrypt_tail_blocks_inplace(rest);
    }
}
