//! Names and chains against the verifier itself, without a network.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SanType, date_time_ymd,
};

use super::*;

const SIMULATOR: &str = "simhost-0a1b.agni.secondlife.io";

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "a private authority");
    Authority::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A server's certificate with these common names and alternative names.
fn signed_by(
    authority: &Authority,
    common_name: &str,
    change: impl FnOnce(&mut CertificateParams),
) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "grid");
    params.distinguished_name.push(DnType::CommonName, common_name);
    change(&mut params);
    params.signed_by(&KeyPair::generate().unwrap(), authority).unwrap().der().clone()
}

/// A verifier that has `own` from the user's file and `public` from the system.
fn verifier(own: &Authority, public: &Authority) -> Linden {
    let store = |authorities: &[&Authority]| {
        let mut store = RootCertStore::empty();
        authorities.iter().for_each(|authority| store.add(authority.der().clone()).unwrap());
        store
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let all = Arc::new(store(&[own, public]));
    let usual = WebPkiServerVerifier::builder_with_provider(all, provider).build().unwrap();
    Linden { usual, own: store(&[own]), algorithms }
}

fn accepts(verifier: &Linden, certificate: &CertificateDer<'_>, host: &str) -> bool {
    let name = ServerName::try_from(host.to_owned()).unwrap();
    verifier.verify_server_cert(certificate, &[], &name, &[], UnixTime::now()).is_ok()
}

#[test]
fn a_simulators_common_name_counts_when_there_is_no_other_name() {
    let own = authority();
    let verifier = verifier(&own, &authority());
    for (common_name, host, good) in [
        (SIMULATOR, SIMULATOR, true),
        (SIMULATOR, "SIMHOST-0A1B.agni.secondlife.io", true),
        ("*.agni.secondlife.io", SIMULATOR, true),
        ("*.agni.lindenlab.com", "sim1.agni.lindenlab.com", true),
        ("simhost-9999.agni.secondlife.io", SIMULATOR, false),
        ("*.secondlife.io", SIMULATOR, false),
        ("*.agni.secondlife.io", "agni.secondlife.io", false),
        ("simhost-*.agni.secondlife.io", SIMULATOR, false),
        ("*", SIMULATOR, false),
        ("", SIMULATOR, false),
        ("grid.example", "grid.example", false),
        ("evillindenlab.com", "evillindenlab.com", false),
        ("lindenlab.com.example", "lindenlab.com.example", false),
        ("127.0.0.1", "127.0.0.1", false),
    ] {
        let certificate = signed_by(&own, common_name, |_| {});
        assert_eq!(accepts(&verifier, &certificate, host), good, "{common_name} for {host}");
    }
}

#[test]
fn a_common_name_never_counts_beside_alternative_names() {
    let own = authority();
    let verifier = verifier(&own, &authority());
    let other_name = SanType::DnsName("other.example".try_into().unwrap());
    let address = SanType::IpAddress("203.0.113.9".parse().unwrap());
    for name in [other_name, address] {
        let certificate = signed_by(&own, SIMULATOR, |params| params.subject_alt_names.push(name));
        assert!(!accepts(&verifier, &certificate, SIMULATOR));
    }
    let own_name = SanType::DnsName(SIMULATOR.try_into().unwrap());
    let certificate = signed_by(&own, "x", |params| params.subject_alt_names.push(own_name));
    assert!(accepts(&verifier, &certificate, SIMULATOR), "the usual way stays open");
}

#[test]
fn everything_but_the_name_is_verified_as_always() {
    let (own, public) = (authority(), authority());
    let verifier = verifier(&own, &public);
    let refused = [
        ("unknown authority", signed_by(&authority(), SIMULATOR, |_| {})),
        ("authority of the system only", signed_by(&public, SIMULATOR, |_| {})),
        ("expired", signed_by(&own, SIMULATOR, |params| params.not_after = date_time_ymd(2020, 1, 1))),
        ("not yet valid", signed_by(&own, SIMULATOR, |params| params.not_before = date_time_ymd(4000, 1, 1))),
        (
            "for clients",
            signed_by(&own, SIMULATOR, |params| {
                params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
            }),
        ),
    ];
    for (what, certificate) in refused {
        assert!(!accepts(&verifier, &certificate, SIMULATOR), "{what}");
    }
    let good = signed_by(&own, SIMULATOR, |params| {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    });
    assert!(accepts(&verifier, &good, SIMULATOR));
}

#[test]
fn a_cut_or_changed_certificate_gives_no_name_that_was_not_there() {
    let certificate = signed_by(&authority(), SIMULATOR, |_| {});
    assert_eq!(der::lone_common_name(&certificate), Some(SIMULATOR));
    for length in 0..certificate.len() {
        assert_eq!(der::lone_common_name(&certificate[..length]), None, "{length} bytes");
    }
    for at in 0..certificate.len() {
        for value in [0, 0x1F, 0x30, 0x7F, 0x80, 0x83, 0x84, 0xFF] {
            let mut changed = certificate.to_vec();
            changed[at] = value;
            let _ = der::lone_common_name(&changed);
        }
    }
}
