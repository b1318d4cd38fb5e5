//! ISA-L, if the machine has it.

use super::{Buffer, c_int, c_void};

type Function = unsafe extern "C" fn(vects: c_int, len: c_int, array: *mut *mut c_void) -> c_int;

/// `int xor_gen(int vects, int len, void **array)` and `pq_gen` of raid.h: the last of `vects` vectors become the
/// parities of the others. Pointers are 32-byte aligned.
pub(crate) struct Isal {
    xor_gen: Function,
    pq_gen: Function,
}

impl Isal {
    /// Finds the functions in the installed library.
    pub(crate) fn load() -> Option<Self> {
        // SAFETY: the name is a C string; loading ISA-L runs no initialiser with preconditions.
        let library = unsafe { libc::dlopen(c"libisal.so.2".as_ptr(), libc::RTLD_NOW) };
        if library.is_null() {
            return None;
        }
        let find = |name: &std::ffi::CStr| {
            // SAFETY: the handle is valid and never closed; the name is a C string.
            let symbol = unsafe { libc::dlsym(library, name.as_ptr()) };
            // SAFETY: the symbol, if it is there, is that function of the stable C API, and Option<fn> is null-optimised.
            unsafe { std::mem::transmute::<*mut c_void, Option<Function>>(symbol) }
        };
        Some(Self {
            xor_gen: find(c"xor_gen")?,
            pq_gen: find(c"pq_gen")?,
        })
    }

    /// Makes one parity or two out of `sources`.
    pub(crate) fn run(&self, sources: &mut [Buffer], parities: &mut [Buffer]) {
        let len = c_int::try_from(parities[0].len()).expect("a block is small");
        let function = match parities.len() {
            1 => self.xor_gen,
            _ => self.pq_gen,
        };
        let blocks = sources.iter_mut().chain(parities);
        let mut vectors: Vec<*mut c_void> = blocks.map(|block| block.as_mut_ptr().cast()).collect();
        let count = c_int::try_from(vectors.len()).expect("a row is small");
        // SAFETY: every pointer leads to `len` bytes of an aligned buffer that lives here; only the last are written.
        let status = unsafe { function(count, len, vectors.as_mut_ptr()) };
        assert_eq!(status, 0, "ISA-L refuses its arguments");
    }
}
