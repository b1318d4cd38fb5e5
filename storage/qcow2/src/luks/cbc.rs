//! Cipher block chaining, each sector for itself.

use cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt};

use super::SECTOR_BYTES;
use super::cipher::Sectors;
use super::iv::{Block, Iv};

/// Sectors that are decrypted together, so that the cipher has many blocks at once.
const GROUP: usize = 8;

/// A cipher in CBC mode.
pub(super) struct Cbc<C> {
    pub(super) cipher: C,
    pub(super) iv: Iv,
}

impl<C> Sectors for Cbc<C>
where
    C: BlockCipherEncrypt + BlockCipherDecrypt + Send + Sync,
{
    fn encrypt(&self, first: u64, data: &mut [u8]) {
        for (sector, bytes) in (first..).zip(data.chunks_exact_mut(SECTOR_BYTES)) {
            let mut iv = [Block::default()];
            self.iv.fill(sector, &mut iv);
            let (blocks, _) = Array::<u8, C::BlockSize>::slice_as_chunks_mut(bytes);
            let mut before = &iv[0][..C::block_size()];
            for block in blocks {
                mix(block, before);
                self.cipher.encrypt_block(block);
                before = block;
            }
        }
    }

    fn decrypt(&self, first: u64, data: &mut [u8]) {
        let firsts = (first..).step_by(GROUP);
        for (sector, group) in firsts.zip(data.chunks_mut(GROUP * SECTOR_BYTES)) {
            let mut cipher_text = [0; GROUP * SECTOR_BYTES];
            let cipher_text = &mut cipher_text[..group.len()];
            cipher_text.copy_from_slice(group);
            let (blocks, _) = Array::<u8, C::BlockSize>::slice_as_chunks_mut(group);
            self.cipher.decrypt_blocks(blocks);
            let mut ivs = [Block::default(); GROUP];
            self.iv.fill(sector, &mut ivs);
            let plain = group.chunks_exact_mut(SECTOR_BYTES);
            for ((plain, cipher_text), iv) in
                plain.zip(cipher_text.chunks_exact(SECTOR_BYTES)).zip(&ivs)
            {
                let (head, tail) = plain.split_at_mut(C::block_size());
                mix(head, &iv[..]);
                mix(tail, cipher_text);
            }
        }
    }
}

fn mix(into: &mut [u8], with: &[u8]) {
    for (byte, other) in into.iter_mut().zip(with) {
        *byte ^= other;
    }
}
