//! SPTPS's ChaCha20-Poly1305, in place.
