//! The primitives against the examples of their standards.

use blake2::digest::{FixedOutput, KeyInit, Update};
use blake2::{Blake2s256, Blake2sMac256, Digest};
use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::{Aead, Payload};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits
        .chunks_exact(2)
        .map(|pair| (pair[0] << 4 | pair[1]) as u8)
        .collect()
}

fn array<const N: usize>(text: &str) -> [u8; N] {
    hex(text).try_into().expect("as many bytes")
}

const SUNSCREEN: &[u8] =
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the \
future, sunscreen would be it.";

/// RFC 7693, appendix B, and the keyed case of the reference implementation's list.
#[test]
fn blake2s() {
    let of_abc = "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982";
    assert_eq!(Blake2s256::digest(b"abc").to_vec(), hex(of_abc));
    let key: Vec<u8> = (0..32).collect();
    let mut mac = <Blake2sMac256 as KeyInit>::new_from_slice(&key).unwrap();
    Update::update(&mut mac, &[]);
    let of_nothing = "48a8997da407876b3d79c0d92325ad3b89cbb754d86ab71aee047ad345fd2c49";
    assert_eq!(mac.finalize_fixed().to_vec(), hex(of_nothing));
}

/// RFC 7748, 5.2 and 6.1.
#[test]
fn x25519() {
    for (scalar, point, product) in [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ] {
        assert_eq!(
            x25519_dalek::x25519(array(scalar), array(point)),
            array(product)
        );
    }
}

/// RFC 8439, 2.8.2: the AEAD that data is sealed with.
#[test]
fn chacha20_poly1305() {
    let key: [u8; 32] = array("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f");
    let nonce = array("070000004041424344454647");
    let aad = hex("50515253c0c1c2c3c4c5c6c7");
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &key).unwrap());
    let mut text = SUNSCREEN.to_vec();
    let tag = key
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(&aad),
            &mut text,
        )
        .unwrap();
    let sealed = "d31a8d34648e60db7b86afbc53ef7ec2 a4aded51296e08fea9e2b5a736ee62d6 \
                  3dbea45e8ca9671282fafb69da92728b 1a71de0a9e060b2905d6a5b67ecd3b36 \
                  92ddbd7f2d778b8c9803aee328091b58 fab324e4fad675945585808b4831d7bc \
                  3ff4def08e4b7a9de576d26586cec64b 6116";
    assert_eq!(text, hex(sealed));
    assert_eq!(tag.as_ref(), hex("1ae10b594f09e26a7e902ecbd0600691"));
}

/// draft-irtf-cfrg-xchacha-03, A.3.1: the AEAD that cookies are sealed with.
#[test]
fn xchacha20_poly1305() {
    let key: [u8; 32] = array("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f");
    let nonce: [u8; 24] = array("404142434445464748494a4b4c4d4e4f5051525354555657");
    let aad = hex("50515253c0c1c2c3c4c5c6c7");
    let payload = Payload {
        msg: SUNSCREEN,
        aad: &aad,
    };
    let sealed = XChaCha20Poly1305::new(&key.into())
        .encrypt(&nonce.into(), payload)
        .unwrap();
    let expected = "bd6d179d3e83d43b9576579493c0e939 572a1700252bfaccbed2902c21396cbb \
                    731c7f1b0b4aa6440bf3a82f4eda7e39 ae64c6708c54c216cb96b72e1213b452 \
                    2f8c9ba40db5d945b11b69b982c1bb9e 3f3fac2bc369488f76b2383565d3fff9 \
                    21f9664c97637da9768812f615c68b13 b52e c0875924c1c7987947deafd8780acf49";
    assert_eq!(sealed, hex(expected));
}
