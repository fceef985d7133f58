//! Randomness of the system.

use std::io;

use rand::{TryRng, rngs::SysRng};

/// Returns 32 fresh bytes, for seeding a generator.
///
/// # Errors
/// Those of `getrandom(2)`.
pub fn seed() -> io::Result<[u8; 32]> {
    let mut seed = [0; 32];
    SysRng.try_fill_bytes(&mut seed).map_err(io::Error::other)?;
    Ok(seed)
}
