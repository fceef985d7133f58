//! Real daemons in network namespaces: meshd beside tinc 1.1 and tinc 1.0, on real TUN devices.
//!
//! Every scenario is a function over [`node::Kind`]s. It runs with meshd in it as a test, and with
//! tinc alone as an ignored `control_…` test, which shows that the scenario itself is right.
//!
//! Needs root, /dev/net/tun and the tincs that `tests/run` fetches. Settings:
//! - `MESHD_TINC11`, `MESHD_TINC10`: where they are (default: `target/peers/…`).
//! - `MESHD_MARIADB`: where MariaDB is (default: `target/peers/mariadb`).
//! - `MESHD_BIN`: folder with `meshd` and `meshctl` (default: those built beside the test, unoptimised).
//! - `MESHD_NET_BYTES`: size of the large transfers in bytes (default 1 GiB).
//! - `MESHD_NET_REKEY_SECONDS`: how long traffic runs while keys are renewed (default 12, 25 for native sessions).
//! - `MESHD_CHAOS_SEED`, `MESHD_CHAOS_MINUTES`: seed and length of the ignored runs of `chaos` (default 1, 10).
//! - `MESHD_NET_KEEP=1`: leaves configuration and logs of each world in place.
#![cfg(target_os = "linux")]
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "drives real daemons in real time, and a failed step is a failed test"
)]

mod broadcasts;
mod capture;
mod chains;
mod chaos;
mod dialling;
mod dump;
mod dumps;
mod failover;
mod faulty;
mod five;
mod frames;
mod hooks;
mod hostile;
mod insider;
mod keeper;
mod legacy;
mod line;
mod mariadb;
mod metrics;
mod migrate;
mod native;
mod native_tunnels;
mod node;
mod outsider;
mod pairs;
mod paths;
mod rekey;
mod reload;
mod restart;
mod rolling;
mod routing;
mod sandbox;
mod switch;
mod tap_router;
mod terms;
mod traffic;
mod underlay;
mod upgrade;
mod watchdog;
mod why;
mod world;
