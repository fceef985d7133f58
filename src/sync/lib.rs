//! What threads share is made of these: the standard library's types and arc-swap's, or, with the feature
//! `model`, loom's, which run a test through every order that the threads may take.
//!
//! Only what the packet threads and the driver share is modelled, so only that imports this module.

/// Filled once; trusted, as arc-swap is.
pub use std::sync::OnceLock;

#[cfg(not(feature = "model"))]
pub use arc_swap::{ArcSwap, Guard};
#[cfg(not(feature = "model"))]
pub use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64},
};

#[cfg(feature = "model")]
pub use self::modelled::{ArcSwap, Guard};
#[cfg(feature = "model")]
pub use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64},
};

/// arc-swap's own algorithm is trusted: this has its interface and its ordering, and one point where
/// threads may change over.
#[cfg(feature = "model")]
mod modelled {
    use std::{
        ops::Deref,
        sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    };

    use loom::sync::atomic::AtomicUsize;

    /// As `arc_swap::ArcSwap`.
    #[derive(Debug)]
    pub struct ArcSwap<T> {
        /// Where threads may change over. What is read of it does not matter.
        point: AtomicUsize,
        /// Never held where threads change over.
        value: Mutex<Arc<T>>,
    }

    /// As `arc_swap::Guard`.
    #[derive(Debug)]
    pub struct Guard<T>(T);

    impl<T> Deref for Guard<T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.0
        }
    }

    impl<T> ArcSwap<T> {
        /// Holds `value`.
        #[must_use]
        pub fn new(value: Arc<T>) -> Self {
            Self {
                point: AtomicUsize::new(0),
                value: Mutex::new(value),
            }
        }

        /// Holds `value`.
        #[must_use]
        pub fn from_pointee(value: T) -> Self {
            Self::new(Arc::new(value))
        }

        /// What it holds now.
        #[must_use]
        pub fn load(&self) -> Guard<Arc<T>> {
            self.point.load(Ordering::Acquire);
            let value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
            Guard(Arc::clone(&value))
        }

        /// Replaces what it holds.
        pub fn store(&self, value: Arc<T>) {
            self.point.fetch_add(1, Ordering::AcqRel);
            *self.value.lock().unwrap_or_else(PoisonError::into_inner) = value;
        }
    }
}

/// How the models (`*/models.rs`) are run.
#[cfg(feature = "model")]
#[expect(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "only tests run it"
)]
pub mod model {
    use loom::thread::{Builder, JoinHandle};

    /// Machine words of a thread's stack: debug builds of ciphers take more than loom's 32 KiB.
    const STACK: usize = 1 << 16;
    /// Runs `body` through every order that its threads may take, and everything that they may see of
    /// each other's writes.
    pub fn check(body: impl Fn() + Clone + Send + Sync + 'static) {
        loom::model(move || spawn(body.clone()).join().unwrap());
    }

    /// Starts a thread within `body` of [`check`].
    pub fn spawn<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let builder = Builder::new().stack_size(STACK);
        builder.spawn(body).unwrap()
    }
}
