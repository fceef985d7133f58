//! The table of all findings: one row for each code.

use crate::Severity::{self, Critical, Fine, Note, Warning};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident $id:literal $severity:ident)*) => {
        /// A kind of finding. The id is stable; texts may change.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// All codes.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Returns the id, in lower case with hyphens.
            #[must_use]
            pub const fn id(self) -> &'static str {
                match self { $(Self::$name => $id,)* }
            }

            /// Returns the severity, unless limits of the operator decide on it.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self { $(Self::$name => $severity,)* }
            }
        }
    };
}

codes! {
    // A node, as `peers` shows it.
    /// Expires or Revoked shuts the node out.
    ShutOut "shut-out" Critical
    /// The node's Ed25519 key is missing here.
    NoKey "no-key" Critical
    /// A dial failed, and there is no other path.
    CannotConnect "cannot-connect" Critical
    /// There is no address to dial, and no other path.
    NoAddress "no-address" Critical
    /// No node reaches it, and this node does not dial it.
    NoPath "no-path" Critical
    /// Packets go over TCP: this node does not support the cipher that a legacy node requests.
    LegacyCipher "legacy-cipher" Warning
    /// The tunnel is legacy.
    Legacy "legacy" Note
    /// A link is legacy.
    LegacyLink "legacy-link" Warning
    /// UDP carries short packets only.
    MtuTooSmall "mtu-too-small" Warning
    /// TCPOnly forbids UDP.
    TcpOnly "tcp-only" Note
    /// IndirectData forbids a direct path.
    Indirect "indirect" Note
    /// A tunnel handshake waits for its answer.
    Handshake "handshake" Note
    /// There was no traffic.
    Idle "idle" Note
    /// UDP probes stay unanswered.
    UdpNoReply "udp-no-reply" Warning

    // The steps of `why`.
    /// The request names a known node.
    NameKnown "name-known" Fine
    /// The request names this node.
    NameOurs "name-ours" Fine
    /// The request names no node.
    NameUnknown "name-unknown" Critical
    /// A host file has a mistake.
    HostFileBad "bad-host-file" Critical
    /// This user may not read the host files.
    HostFileUnreadable "host-file-unreadable" Note
    /// There is no host file.
    HostFileMissing "no-host-file" Critical
    /// The files on disk are not in force.
    NotReloaded "not-reloaded" Critical
    /// The node's key is known, and proven where a connection exists.
    KeyKnown "key-known" Fine
    /// The host file allows legacy at most.
    LegacyAtMost "legacy-at-most" Note
    /// Legacy, as announced by neighbours of the node.
    LegacyAnnounced "legacy-announced" Fine
    /// A peer does not prove the key, or refuses ours.
    KeyDiffers "key-differs" Critical
    /// MinProtocol forbids the node's best protocol.
    Forbidden "forbidden" Critical
    /// An announced subnet is refused.
    SubnetRefused "subnet-refused" Critical
    /// The node has no subnet.
    SubnetMissing "no-subnet" Note
    /// A subnet of the node is accepted.
    SubnetAccepted "subnet-accepted" Fine
    /// Lines reach the node.
    LinesArrive "lines-arrive" Fine
    /// Others reach the node, but our link to it fails.
    LinkFails "link-fails" Warning
    /// This node lacks a listening socket.
    NotListening "not-listening" Warning
    /// The node is down, and there is no address to dial.
    NotDialled "not-dialled" Note
    /// The node is being dialled.
    Dialling "dialling" Critical
    /// No chain of links leads to the node.
    NoChain "no-chain" Critical
    /// The node is down, seen from this node.
    DownFromHere "down-from-here" Critical
    /// An address of the node is known.
    AddressKnown "address-known" Fine
    /// No Address is listed, and none is needed yet.
    AddressUnknown "address-unknown" Note
    /// A host name does not resolve.
    AddressUnresolved "address-unresolved" Critical
    /// Every Address lies inside the mesh, or is invalid.
    AddressInside "address-inside-mesh" Critical
    /// An end answers UDP probes.
    UdpAnswers "udp-answers" Fine
    /// A step was not tried.
    NotTried "not-tried" Note
    /// UDPDiscovery is off.
    DiscoveryOff "udp-discovery-off" Note
    /// Probes were just sent.
    JustTried "just-tried" Note
    /// A legacy key is requested again.
    KeyDoubted "key-doubted" Note
    /// The path MTU is known.
    MtuKnown "mtu-known" Fine
    /// The search for the path MTU runs.
    MtuSearch "mtu-search" Note
    /// A subnet has an owner in use.
    OwnerKnown "owner-known" Fine
    /// No owner of a subnet is reachable.
    OwnerDown "owner-down" Critical
    /// The kernel sends the address into the mesh.
    RouteKnown "route-known" Fine
    /// The kernel sends the address elsewhere.
    RouteElsewhere "route-elsewhere" Critical
    /// The kernel has no route to the address.
    RouteMissing "route-missing" Critical
    /// The firewall admits our port.
    FirewallOpen "firewall-open" Fine
    /// The firewall refuses our port.
    FirewallClosed "firewall-closed" Critical
    /// The firewall refuses our port, but answers pass.
    FirewallAnswers "firewall-answers" Note
    /// A rule that meshctl cannot evaluate decides.
    FirewallUnsure "firewall-unsure" Note
    /// A step was not checked.
    NotChecked "not-checked" Note
    /// This node cannot see the step of another node.
    NotSeen "not-seen" Note

    // `health`.
    /// Number of nodes that are down.
    PeersDown "peers-down" Warning
    /// Number of nodes that are reached over TCP or a relay.
    Detours "detours" Warning
    /// The longest round trip.
    RoundTrip "round-trip" Warning
    /// A packet thread does not run.
    ThreadStopped "thread-stopped" Critical
    /// The sandbox refused system calls.
    CallRefused "system-call-refused" Warning
    /// Warnings about the configuration.
    ConfigWarnings "config-warnings" Fine
    /// Nodes announce subnets that are refused.
    SubnetsRefused "subnets-refused" Warning
    /// The running key differs from the key in the files.
    OtherKey "other-key" Warning

    // `migrate status`.
    /// ExperimentalProtocol = no limits this node to legacy.
    ExperimentalProtocol "experimental-protocol" Note
    /// The key of this node is newer than the running daemon.
    NotRestarted "not-restarted" Note
    /// This node has no Ed25519 key.
    NoOwnKey "no-own-key" Note
    /// Native = no disables native.
    NativeOff "native-off" Note
    /// A fallback to an older protocol is still allowed.
    MayFallBack "may-fall-back" Note
    /// The node runs a program without native.
    NoNativeThere "no-native-there" Note
    /// The key of this node comes first.
    OwnKeyFirst "own-key-first" Note
    /// Native on this node comes first.
    OwnNativeFirst "own-native-first" Note
    /// The node does not know the key of this node.
    OurKeyUnknownThere "our-key-unknown-there" Note
    /// Both ends offer native, but the link uses SPTPS.
    NativeFails "native-fails" Note
    /// The node was never seen.
    Unknown "unknown" Note
    /// The node runs tinc 1.0.
    Tinc10 "tinc-1-0" Note
    /// The node speaks only legacy.
    LegacyThere "legacy-there" Note
    /// The node has no Ed25519 key in use.
    NoKeyThere "no-key-there" Note
}

impl Code {
    /// Returns the id as JSON of `peers` and `migrate status` has it: with underscores.
    #[must_use]
    pub fn word(self) -> String {
        self.id().replace('-', "_")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_id_is_kebab_case_and_unique() {
        let ids: BTreeSet<&str> = Code::ALL.iter().map(|code| code.id()).collect();
        assert_eq!(ids.len(), Code::ALL.len());
        let kebab = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(ids.iter().all(|id| id.chars().all(kebab)), "{ids:?}");
        assert_eq!(Code::UdpNoReply.word(), "udp_no_reply");
    }
}
