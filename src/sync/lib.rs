//! Types of state that threads share: those of the standard library and arc-swap. With the feature
//! `model` the types are loom's, which run a test through every order of the threads.
//!
//! Only state shared by the packet threads and the driver is modelled, so only that code imports
//! this crate.

/// Written once; trusted, like arc-swap.
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

/// Stand-in for arc-swap, whose own algorithm is trusted. The type has the interface and ordering
/// of arc-swap, and one point where threads may switch.
#[cfg(feature = "model")]
mod modelled {
    use std::{
        ops::Deref,
        sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    };

    use loom::sync::atomic::AtomicUsize;

    /// Stand-in for `arc_swap::ArcSwap`.
    #[derive(Debug)]
    pub struct ArcSwap<T> {
        /// Point where threads may switch; the value read is ignored.
        point: AtomicUsize,
        /// Never held at a point where threads switch.
        value: Mutex<Arc<T>>,
    }

    /// Stand-in for `arc_swap::Guard`.
    #[derive(Debug)]
    pub struct Guard<T>(T);

    impl<T> Deref for Guard<T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.0
        }
    }

    impl<T> ArcSwap<T> {
        /// Makes a container of `value`.
        #[must_use]
        pub fn new(value: Arc<T>) -> Self {
            Self {
                point: AtomicUsize::new(0),
                value: Mutex::new(value),
            }
        }

        /// Makes a container of `value`.
        #[must_use]
        pub fn from_pointee(value: T) -> Self {
            Self::new(Arc::new(value))
        }

        /// Returns the current value.
        #[must_use]
        pub fn load(&self) -> Guard<Arc<T>> {
            self.point.load(Ordering::Acquire);
            let value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
            Guard(Arc::clone(&value))
        }

        /// Replaces the value.
        pub fn store(&self, value: Arc<T>) {
            self.point.fetch_add(1, Ordering::AcqRel);
            *self.value.lock().unwrap_or_else(PoisonError::into_inner) = value;
        }
    }
}

/// Runner of the models (`*/models.rs`).
#[cfg(feature = "model")]
#[expect(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "only tests run it"
)]
pub mod model {
    use loom::thread::{Builder, JoinHandle};

    /// Stack size of a thread in machine words: debug builds of ciphers need more than loom's 32
    /// KiB.
    const STACK: usize = 1 << 16;
    /// Runs `body` through every order of its threads, and every visibility of their writes.
    pub fn check(body: impl Fn() + Clone + Send + Sync + 'static) {
        loom::model(move || spawn(body.clone()).join().unwrap());
    }

    /// Starts a thread within `body` of [`check`].
    pub fn spawn<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let builder = Builder::new().stack_size(STACK);
        builder.spawn(body).unwrap()
    }
}
