//! Switch between our own AVX-512 code of AES-256-GCM, ChaCha20 and Poly1305 and the code of the
//! libraries. Both make the same bytes.

/// The program is compiled for processors with AVX-512 only, so it has no other code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this meshd is compiled for processors with AVX-512 only")]
pub struct CompiledIn;

/// Turns our own AVX-512 code off for keys and packets from now on, in all threads of the process.
///
/// Errors: the program has no other code.
#[cfg(target_arch = "x86_64")]
pub fn disable() -> Result<(), CompiledIn> {
    allow(false)
}

/// Does nothing: this architecture has no code of our own.
#[cfg(not(target_arch = "x86_64"))]
pub fn disable() -> Result<(), CompiledIn> {
    Ok(())
}

/// X64V4Token contains X64V4xToken, so this covers all three ciphers.
#[cfg(target_arch = "x86_64")]
fn allow(allowed: bool) -> Result<(), CompiledIn> {
    archmage::X64V4Token::dangerously_disable_token_process_wide(!allowed).map_err(|_| CompiledIn)
}

#[cfg(all(test, target_arch = "x86_64"))]
pub(crate) mod tests {
    use std::sync::{PoisonError, RwLock, RwLockReadGuard};

    use archmage::{SimdToken, X64V4Token, X64V4xToken};

    use super::allow;
    use crate::{
        Rng, aead,
        seal::{Aead, SealKey},
    };

    /// Held by tests that need the vectors, and for writing by the test that turns them off.
    static SWITCH: RwLock<()> = RwLock::new(());

    /// Keeps the vectors on until the guard is dropped.
    pub(crate) fn keep_on() -> RwLockReadGuard<'static, ()> {
        SWITCH.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// CI lists in `MESHD_CI_LACKS` what its machine may lack. If the list has no `vaes`, this test
    /// fails on a processor without AVX-512.
    #[test]
    fn this_processor_runs_our_own_code() {
        let _on = keep_on();
        if X64V4xToken::summon().is_none() {
            meshd_testing::skip("vaes", "our AES-GCM needs VAES and AVX-512");
        }
    }

    /// Returns sealed packets of all lengths up to more than a packet, of SPTPS and of both native AEADs.
    fn sealed() -> Vec<Vec<u8>> {
        let mut rng = Rng::new([5; 32]);
        let (sptps, native) = (rng.bytes(), rng.bytes());
        let keys =
            [Aead::Aes256Gcm, Aead::ChaCha20Poly1305].map(|aead| SealKey::new(aead, &native));
        let packet = |length: usize| {
            let mut plain = vec![0; length];
            rng.fill(&mut plain);
            let plain = [&plain[..], &[0; aead::TAG]].concat();
            let number = length as u32;
            let mut packets = [plain.clone(), plain.clone(), plain];
            aead::seal(&sptps, number, &mut packets[0]);
            for (key, packet) in keys.iter().zip(&mut packets[1..]) {
                key.seal(number.into(), &[7; 16], packet);
            }
            packets
        };
        (0..1_700).flat_map(packet).collect()
    }

    #[test]
    fn both_choices_make_the_same_bytes() {
        let _alone = SWITCH.write().unwrap_or_else(PoisonError::into_inner);
        let ours = sealed();
        if allow(false).is_err() {
            return;
        }
        let is_off = X64V4Token::summon().is_none() && X64V4xToken::summon().is_none();
        let library = sealed();
        allow(true).expect("it was turned off");
        assert!(is_off);
        assert!(ours == library);
    }
}
