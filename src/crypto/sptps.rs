//! The SPTPS key exchange as values: KEX and SIG messages in, session keys out.
