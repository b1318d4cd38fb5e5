//! ISA-L, if the machine has it.

use super::{Buffer, c_int, c_void};

type Function = unsafe extern "C" fn(vects: c_int, len: c_int, array: *mut *mut c_void) -> c_int;

/// `int xor_gen(int vects, int len, void **array)` of raid.h: the last of `vects` vectors becomes the exclusive or of
/// the others. Pointers are 32-byte aligned.
pub(crate) struct XorGen(Function);

impl XorGen {
    /// Finds the function in the installed library.
    pub(crate) fn load() -> Option<Self> {
        // SAFETY: the name is a C string; loading ISA-L runs no initialiser with preconditions.
        let library = unsafe { libc::dlopen(c"libisal.so.2".as_ptr(), libc::RTLD_NOW) };
        if library.is_null() {
            return None;
        }
        // SAFETY: the handle is valid and never closed; the name is a C string.
        let symbol = unsafe { libc::dlsym(library, c"xor_gen".as_ptr()) };
        // SAFETY: the symbol, if it is there, is that function of the stable C API, and Option<fn> is null-optimised.
        unsafe { std::mem::transmute::<*mut c_void, Option<Function>>(symbol) }.map(Self)
    }

    /// Makes `parity` out of `sources`.
    pub(crate) fn run(&self, sources: &mut [Buffer], parity: &mut Buffer) {
        let len = c_int::try_from(parity.len()).expect("a block is small");
        let mut vectors: Vec<*mut c_void> = sources
            .iter_mut()
            .map(|source| source.as_mut_ptr().cast())
            .collect();
        vectors.push(parity.as_mut_ptr().cast());
        let count = c_int::try_from(vectors.len()).expect("a row is small");
        // SAFETY: every pointer leads to `len` bytes of an aligned buffer that lives here; only the last is written.
        let status = unsafe { (self.0)(count, len, vectors.as_mut_ptr()) };
        assert_eq!(status, 0, "xor_gen refuses its arguments");
    }
}
