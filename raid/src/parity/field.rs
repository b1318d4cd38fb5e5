//! The field of RAID-6: 256 elements, polynomial x^8 + x^4 + x^3 + x^2 + 1 (0x11d), generator 2.
//!
//! Source: H. P. Anvin, "The mathematics of RAID-6"; Linux `lib/raid6`.

/// The polynomial without its highest term.
pub const POLYNOMIAL: u8 = 0x1d;

/// `EXP[n]` is the generator's power `n`; twice around, so that the sum of two logarithms needs no modulus.
const EXP: [u8; 510] = powers();
const LOG: [u8; 256] = logarithms();

const fn powers() -> [u8; 510] {
    let mut table = [0; 510];
    let (mut value, mut at) = (1, 0);
    while at < 510 {
        table[at] = value;
        value = double(value);
        at += 1;
    }
    table
}

const fn logarithms() -> [u8; 256] {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 255 {
        table[EXP[at as usize] as usize] = at;
        at += 1;
    }
    table
}

/// Twice `value`.
pub const fn double(value: u8) -> u8 {
    (value << 1) ^ if value & 0x80 != 0 { POLYNOMIAL } else { 0 }
}

/// The product.
pub const fn mul(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 {
        return 0;
    }
    EXP[LOG[a as usize] as usize + LOG[b as usize] as usize]
}

/// The quotient.
///
/// # Panics
/// If `b` is zero.
pub fn div(a: u8, b: u8) -> u8 {
    assert_ne!(b, 0, "nothing is divided by zero");
    if a == 0 {
        return 0;
    }
    EXP[usize::from(LOG[usize::from(a)]) + 255 - usize::from(LOG[usize::from(b)])]
}

/// The generator's power `exponent`.
pub fn power(exponent: u32) -> u8 {
    EXP[(exponent % 255) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The product by its definition, bit by bit.
    fn product(a: u8, mut b: u8) -> u8 {
        let (mut sum, mut multiple) = (0, a);
        while b != 0 {
            if b & 1 != 0 {
                sum ^= multiple;
            }
            multiple = double(multiple);
            b >>= 1;
        }
        sum
    }

    #[test]
    fn products_and_quotients_are_those_of_the_definition() {
        for a in 0..=255 {
            for b in 0..=255 {
                assert_eq!(mul(a, b), product(a, b));
                if b != 0 {
                    assert_eq!(div(mul(a, b), b), a);
                }
            }
        }
    }

    #[test]
    fn the_generator_reaches_every_element() {
        let mut seen: Vec<u8> = (0..255).map(power).collect();
        seen.sort_unstable();
        assert_eq!(seen, (1..=255).collect::<Vec<u8>>());
        assert_eq!((power(8), power(255)), (POLYNOMIAL, 1));
    }
}
