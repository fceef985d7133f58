use data_encoding::HEXLOWER;

use super::*;

fn hex<const N: usize>(text: &str) -> [u8; N] {
    HEXLOWER
        .decode(text.as_bytes())
        .unwrap()
        .try_into()
        .unwrap()
}

/// Vector of the Cacophony project for this protocol; other implementations are tested with it.
#[test]
fn our_primitives_give_the_messages_of_the_public_vector() {
    let psk = hex("54686973206973206d7920417573747269616e20706572737065637469766521");
    let secrets = [
        "e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1",
        "4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893",
    ]
    .map(|text| StaticSecret(Zeroizing::new(hex(text))));
    let ephemerals = [
        "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a",
        "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b",
    ];
    let public = secrets[1].public();
    let expected = "31e0303fd6418d2f8c0e78b91f22e8caed0fbe48656dcf4767e4834f701b8f62";
    assert_eq!(public.0, hex::<32>(expected));

    let side = |at: usize| {
        let script: [u8; 32] = hex(ephemerals[at]);
        let rng = Rng::scripted(&script, [0; 32]);
        let resolver = Resolver(Cell::new(Some(rng)));
        Builder::with_resolver(PROTOCOL.parse().unwrap(), Box::new(resolver))
            .local_private_key(&*secrets[at].0)
            .unwrap()
            .psk(2, &psk)
            .unwrap()
            .prologue(b"John Galt")
            .unwrap()
    };
    let mut initiator = side(0)
        .remote_public_key(&public.0)
        .unwrap()
        .build_initiator()
        .unwrap();
    let mut responder = side(1).build_responder().unwrap();
    let first = write(&mut initiator, b"Ludwig von Mises", MSG1_OVERHEAD);
    assert_eq!(
        HEXLOWER.encode(&first),
        "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944001e21de9f98ddd8e2ad57527207feb56253c9\
         c94a9e496782ecfcb2a75fbcaf1b52948cc48daefe660c62119ab5000980c84831215f2441eba616548e832985464cf17e51ee\
         93109008399a21f7e13f"
    );
    assert_eq!(
        read(&mut responder, &first, MSG1_OVERHEAD).unwrap(),
        b"Ludwig von Mises"
    );
    let second = write(&mut responder, b"Murray Rothbard", MSG2_OVERHEAD);
    assert_eq!(
        HEXLOWER.encode(&second),
        "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843cb765f2caef0751b8f007572dab0322217755c\
         0632f365717edbf34d33e87a"
    );
    read(&mut initiator, &second, MSG2_OVERHEAD).unwrap();
    let (ours, theirs) = (keys(&mut initiator), keys(&mut responder));
    assert_eq!((ours.tx, ours.rx), (theirs.rx.clone(), theirs.tx.clone()));
    // The first transport message of the vector.
    let mut sealed = [0; 27];
    let cipher = ChaChaPoly(theirs.rx);
    cipher.encrypt(0, &[], b"F. A. Hayek", &mut sealed);
    let expected = "8153ca9833bc3c1b91a7e66e5f4d4f5b59bf9e64c2f20d15f0bba7";
    assert_eq!(HEXLOWER.encode(&sealed), expected);
    let mut opened = [0; 11];
    assert_eq!(cipher.decrypt(0, &[], &sealed, &mut opened).unwrap(), 11);
    assert_eq!(&opened, b"F. A. Hayek");
}

/// Two nodes and their clear text before the handshake.
struct Pair {
    names: [NodeName; 2],
    keys: [PrivateKey; 2],
    psks: [[u8; 32]; 2],
    purposes: [Purpose; 2],
    context: [Vec<u8>; 2],
}

impl Pair {
    fn new() -> Self {
        Self {
            names: ["alice", "bob"].map(|name| NodeName::new(name).unwrap()),
            keys: [1, 2].map(|seed| PrivateKey::from_seed(&[seed; 32])),
            psks: [[0; 32]; 2],
            purposes: [Purpose::Tunnel; 2],
            context: [vec![3], vec![3]],
        }
    }

    /// Runs the handshake between the views of both; alice starts with `callee`'s key.
    fn shake(&self, callee: &PublicKey, callers: &[StaticPublic]) -> Result<(), Refused> {
        let secrets = self.keys.each_ref().map(StaticSecret::of);
        let context = self.context.each_ref().map(|context| [context.as_slice()]);
        let side = |at: usize| Parties {
            purpose: self.purposes[at],
            initiator: &self.names[0],
            responder: &self.names[1],
            context: &context[at],
            psk: &self.psks[at],
            secret: &secrets[at],
        };
        let mut rng = Rng::new([9; 32]);
        let (begun, first) = begin(&side(0), &StaticPublic::of(callee), b"hello", &mut rng);
        let (asked, payload) = asked(&side(1), callers, &first, &mut rng)?;
        assert_eq!(payload, b"hello");
        let (second, theirs) = asked.answer(b"well met");
        let (payload, ours) = begun.answered(&second).map_err(|(_, refused)| refused)?;
        assert_eq!(payload, b"well met");
        assert_eq!((&ours.tx, &ours.rx), (&theirs.rx, &theirs.tx));
        assert_ne!(ours.tx, ours.rx);
        Ok(())
    }

    fn shake_as_known(&self) -> Result<(), Refused> {
        let caller = StaticPublic::of(&self.keys[0].public());
        self.shake(&self.keys[1].public(), &[caller])
    }
}

#[test]
fn both_sides_have_the_same_keys() {
    assert_eq!(Pair::new().shake_as_known(), Ok(()));
}

#[test]
fn whatever_both_do_not_see_alike_breaks_it() {
    let edits: [fn(&mut Pair); 4] = [
        |pair| pair.purposes[1] = Purpose::Link,
        |pair| pair.context[1].push(1),
        |pair| pair.context[0] = Vec::new(),
        |pair| pair.psks[0] = [1; 32],
    ];
    for edit in edits {
        let mut pair = Pair::new();
        edit(&mut pair);
        assert_eq!(pair.shake_as_known(), Err(Refused));
    }
}

#[test]
fn one_of_several_keys_of_the_caller_will_do_and_no_other() {
    let pair = Pair::new();
    let callee = pair.keys[1].public();
    let [caller, other] = [0, 1].map(|at| StaticPublic::of(&pair.keys[at].public()));
    assert_eq!(pair.shake(&callee, &[other, caller]), Ok(()));
    assert_eq!(pair.shake(&callee, &[other]), Err(Refused));
    assert_eq!(pair.shake(&callee, &[]), Err(Refused));
    // Meant for another node.
    assert_eq!(pair.shake(&pair.keys[0].public(), &[caller]), Err(Refused));
}

#[test]
fn a_wrong_answer_leaves_the_handshake_as_it_was() {
    let pair = Pair::new();
    let secrets = pair.keys.each_ref().map(StaticSecret::of);
    let side = |at: usize| Parties {
        purpose: Purpose::Tunnel,
        initiator: &pair.names[0],
        responder: &pair.names[1],
        context: &[],
        psk: &[0; 32],
        secret: &secrets[at],
    };
    let mut rng = Rng::new([9; 32]);
    let [alice, bob] = pair
        .keys
        .each_ref()
        .map(|key| StaticPublic::of(&key.public()));
    let (mut begun, first) = begin(&side(0), &bob, &[], &mut rng);
    let (asked, _) = asked(&side(1), &[alice], &first, &mut rng).unwrap();
    let (second, _) = asked.answer(&[]);
    for at in 0..=second.len() {
        let mut wrong = second[..at].to_vec();
        if at == second.len() {
            wrong[0] ^= 1;
        }
        let Err((back, Refused)) = begun.answered(&wrong) else {
            panic!("{at} bytes of an answer taken for one");
        };
        begun = back;
    }
    assert!(begun.answered(&second).is_ok());
}

#[test]
fn points_of_small_order_are_no_keys() {
    assert_eq!(StaticPublic::from_bytes([0; 32]), None);
    let mut one = [0; 32];
    one[0] = 1;
    assert_eq!(StaticPublic::from_bytes(one), None);
    let sound = StaticSecret::of(&PrivateKey::from_seed(&[1; 32])).public();
    assert_eq!(StaticPublic::from_bytes(sound.0), Some(sound));
    let mapped = StaticPublic::of(&PrivateKey::from_seed(&[1; 32]).public());
    assert_eq!(mapped, sound);
}
