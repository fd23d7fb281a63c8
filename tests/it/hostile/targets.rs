//! Every parser that reads what came from outside, with input to begin from and the bound on what
//! it gives out.

use std::net::{Ipv4Addr, SocketAddrV4};

use rezcache::asset::policy::{self, AssetQuery};
use rezcache::asset::range::{ContentRange, RangeAnswer, RangeRequest};
use rezcache::asset::validate::validate;
use rezcache::asset::{AssetKind, j2c, mesh};
use rezcache::llsd::xml::SpannedNode;
use rezcache::llsd::{Llsd, MAX_DEPTH, binary, xml};
use rezcache::lludp::appearance::baked_textures;
use rezcache::lludp::assets::{
    ImageData, ImageNotInDatabase, ImagePacket, TransferAbort, TransferInfo, TransferPacket, without_images,
};
use rezcache::lludp::chat::{ChatFromSimulator, ChatFromViewer};
use rezcache::lludp::circuit::{
    AgentMovementComplete, AgentPause, AgentResume, AgentThrottle, CloseCircuit, CompleteAgentMovement,
    CompletePingCheck, ConfirmEnableSimulator, CrossedRegion, DenyTrustedCircuit, DisableSimulator,
    EnableSimulator, KickUser, LogoutReply, LogoutRequest, OpenCircuit, PacketAck, RegionHandshake,
    RegionHandshakeReply, StartPingCheck, TeleportCancel, TeleportFailed, TeleportFinish, TeleportLocal,
    TeleportProgress, TeleportStart, UseCircuitCode,
};
use rezcache::lludp::{
    MessageBody, MessageNumber, Packet, Replacement, SequenceNumber, append_acks, asset_requests,
    encode_packet, rewrite_addresses, set_sequence, strip_acks, zerocode,
};
use rezcache::session::login::{self, LoginFormat, LoginReply};
use rezcache::session::{Aliases, CapabilityClass, events, grid_info, seed};
use rezcache::xmlrpc::{MethodCall, MethodResponse};

use super::session;
use crate::support::captures;

/// Input to begin from.
pub(super) struct Seed {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

/// One family of parsers.
pub(super) struct Target {
    pub(super) name: &'static str,
    /// Feeds the input, checks bounds, and says whether anything was made of it.
    pub(super) run: fn(&[u8]) -> bool,
    pub(super) seeds: Vec<Seed>,
}

pub(super) fn all() -> Vec<Target> {
    let target = |name, run, seeds| Target { name, run, seeds };
    vec![
        target("packet", packet, from_files("lludp", "bin")),
        target("session", session::hears, from_files("lludp", "bin")),
        target("zero-coding", zero_coding, from_files("lludp", "bin")),
        target("message bodies", message_bodies, decoded_bodies()),
        target("address rewriting", address_rewriting, address_bodies()),
        target("textures", |input| asset(AssetKind::Texture, input), from_files("assets", "texture")),
        target("sounds", |input| asset(AssetKind::Sound, input), from_files("assets", "sound")),
        target("animations", |input| asset(AssetKind::Animation, input), from_files("assets", "animation")),
        target("meshes", |input| asset(AssetKind::Mesh, input), from_files("assets", "mesh")),
        target("materials", |input| asset(AssetKind::Material, input), materials()),
        target("HTTP headers and queries", headers, header_texts()),
        target("LLSD binary", llsd_binary, llsd_documents()),
        target("LLSD XML", llsd_xml, from_files("llsd", "xml")),
        target("XML-RPC", xmlrpc, xmlrpc_documents()),
        target("login", login_reply, xmlrpc_documents()),
        target("seed", seed_reply, from_files("llsd", "xml")),
        target("event queue", event_queue, from_files("llsd", "xml")),
        target("grid info", grid_infos, grid_info_documents()),
    ]
}

fn text_seed(text: &str) -> Seed {
    Seed { name: text.chars().take(60).collect(), bytes: text.as_bytes().to_vec() }
}

fn from_files(folder: &str, extension: &str) -> Vec<Seed> {
    captures::files(folder, extension)
        .into_iter()
        .map(|path| Seed {
            bytes: std::fs::read(&path).expect("a fixture"),
            name: path.display().to_string(),
        })
        .collect()
}

fn decoded_bodies() -> Vec<Seed> {
    from_files("lludp", "bin")
        .into_iter()
        .map(|seed| {
            let mut scratch = Vec::new();
            let body =
                Packet::decode(&seed.bytes).and_then(|packet| packet.body(&mut scratch).map(<[u8]>::to_vec));
            Seed { bytes: body.expect("fixtures are whole"), name: seed.name }
        })
        .collect()
}

/// `TeleportFinish` with a seed capability; the other layouts grow from it too.
fn address_bodies() -> Vec<Seed> {
    let seed = b"http://203.0.113.5:9000/CAPS/6f1c1b9e/\0";
    let mut body = vec![0x11; 20];
    body.extend_from_slice(&[203, 0, 113, 5, 0x23, 0x28, 0, 0xE9, 3, 0, 0, 0xE8, 3, 0]);
    body.extend_from_slice(&[u8::try_from(seed.len()).expect("a short text"), 0]);
    body.extend_from_slice(seed);
    body.extend_from_slice(&[13, 0x10, 0, 0, 0]);
    vec![Seed { name: "a teleport".to_owned(), bytes: body }]
}

fn header_texts() -> Vec<Seed> {
    [
        "bytes=0-599",
        "bytes=599-",
        "bytes=-5",
        "bytes=0-0,5-6",
        "bytes=18446744073709551615-",
        "bytes 0-599/10000",
        "bytes */10000",
        "bytes 599-9999/*",
        "texture_id=5748decc-f629-461c-9a36-a35a221fe21f",
        "mesh_id=5748decc-f629-461c-9a36-a35a221fe21f&x=%20",
        "image/x-j2c, image/jp2;q=0.9, */*;q=0.1",
    ]
    .map(text_seed)
    .into()
}

fn materials() -> Vec<Seed> {
    vec![
        text_seed(concat!(
            "<? LLSD/XML ?>\n<llsd><map><key>data</key><string>{\"asset\":{\"version\":\"2.0\"},",
            "\"materials\":[{}]}</string><key>type</key><string>GLTF 2.0</string>",
            "<key>version</key><string>1.1</string></map></llsd>"
        )),
        text_seed("{\0\0\0\u{1}k\0\0\0\u{4}datas\0\0\0\u{2}{}}"),
    ]
}

fn llsd_documents() -> Vec<Seed> {
    let value = Llsd::Map(vec![
        ("integer".to_owned(), Llsd::Integer(-7)),
        ("real".to_owned(), Llsd::Real(0.5)),
        ("binary".to_owned(), Llsd::Binary(vec![1, 2, 3].into())),
        ("array".to_owned(), Llsd::Array(vec![Llsd::Undef, Llsd::Boolean(true), Llsd::Date(1.0)])),
        ("uri".to_owned(), Llsd::Uri("http://example/".to_owned())),
    ]);
    let nested = (0..MAX_DEPTH * 2).fold(Vec::new(), |mut deep: Vec<u8>, _| {
        deep.extend_from_slice(b"[\0\0\0\x01");
        deep
    });
    let mut seeds = from_files("assets", "mesh");
    seeds.push(Seed { name: "one of each".to_owned(), bytes: binary::encode(&value).expect("it is small") });
    seeds.push(Seed { name: "nested".to_owned(), bytes: nested });
    seeds
}

fn xmlrpc_documents() -> Vec<Seed> {
    let mut seeds = from_files("login", "xml");
    seeds.push(text_seed(concat!(
        "<?xml version=\"1.0\"?><methodResponse><params><param><value><struct>",
        "<member><name>login</name><value><string>indeterminate</string></value></member>",
        "<member><name>next_url</name><value>http://203.0.113.5/</value></member>",
        "</struct></value></param></params></methodResponse>"
    )));
    seeds.push(text_seed(
        "<?xml version=\"1.0\"?><methodCall><methodName>login_to_simulator</methodName><params/></methodCall>",
    ));
    seeds
}

fn grid_info_documents() -> Vec<Seed> {
    vec![
        text_seed(concat!(
            "<gridinfo><login>http://203.0.113.5:9000/</login><gridname>Lab &amp; Co</gridname>",
            "<gridnick>lab</gridnick></gridinfo>"
        )),
        text_seed("{\"login\":\"http://203.0.113.5:9000/\",\"gridname\":\"Lab\",\"x\":[{}]}"),
        text_seed(concat!(
            "<methodResponse><params><param><value><struct><member><name>login</name>",
            "<value><string>http://203.0.113.5/</string></value></member></struct></value></param>",
            "</params></methodResponse>"
        )),
    ]
}

fn packet(input: &[u8]) -> bool {
    let mut patched = input.to_vec();
    set_sequence(&mut patched, SequenceNumber(7));
    if strip_acks(&mut patched).is_ok() {
        append_acks(&mut patched, &[SequenceNumber(1)]);
        assert!(patched.len() <= input.len() + 5);
    }
    let Ok(packet) = Packet::decode(input) else {
        return false;
    };
    assert!(packet.acks().len() * 4 + packet.raw_body.len() + 6 <= input.len());
    let mut scratch = Vec::new();
    let Ok(body) = packet.body(&mut scratch) else {
        assert!(scratch.len() <= zerocode::MAX_EXPANDED);
        return false;
    };
    assert!(body.len() <= zerocode::MAX_EXPANDED.max(input.len()));
    if let Some(edited) = without_images(input, &|block| block % 2 == 0) {
        assert!(edited.len() <= body.len() + 10 && Packet::decode(&edited).is_ok());
    }
    let built = encode_packet(packet.flags, packet.sequence, packet.number, body, &[], true);
    assert!(built.len() <= body.len() + 10);
    let again = Packet::decode(&built).expect("what we build is whole");
    assert_eq!((again.number, again.sequence), (packet.number, packet.sequence));
    message_bodies(body)
}

fn zero_coding(input: &[u8]) -> bool {
    let mut packed = Vec::new();
    zerocode::pack(input, &mut packed);
    assert!(packed.len() <= input.len() * 2);
    let mut plain = Vec::new();
    let whole = zerocode::expand_into(&packed, &mut plain).is_ok();
    assert_eq!(whole, input.len() <= zerocode::MAX_EXPANDED);
    assert!(!whole || plain == input);
    let expanded = zerocode::expand_into(input, &mut plain).is_ok();
    assert!(plain.len() <= zerocode::MAX_EXPANDED);
    assert!(plain.starts_with(&zerocode::peek(input).as_slice()[..plain.len().min(4)]) || !expanded);
    expanded
}

/// Reads the body as this message, and writes it again: never longer than what was read and the
/// zeros of missing blocks.
fn body_as<'a, M: MessageBody<'a>>(input: &'a [u8]) -> bool {
    M::decode(input).is_ok_and(|message| {
        let mut out = Vec::new();
        message.encode(&mut out);
        assert!(out.len() <= input.len() + 64, "{:?}", M::NUMBER);
        true
    })
}

fn message_bodies(input: &[u8]) -> bool {
    let read = [
        body_as::<PacketAck<'_>>(input),
        body_as::<OpenCircuit>(input),
        body_as::<CloseCircuit>(input),
        body_as::<StartPingCheck>(input),
        body_as::<CompletePingCheck>(input),
        body_as::<UseCircuitCode>(input),
        body_as::<CompleteAgentMovement>(input),
        body_as::<AgentMovementComplete<'_>>(input),
        body_as::<LogoutRequest>(input),
        body_as::<LogoutReply<'_>>(input),
        body_as::<KickUser<'_>>(input),
        body_as::<EnableSimulator>(input),
        body_as::<DisableSimulator>(input),
        body_as::<ConfirmEnableSimulator>(input),
        body_as::<CrossedRegion<'_>>(input),
        body_as::<TeleportFinish<'_>>(input),
        body_as::<TeleportLocal>(input),
        body_as::<TeleportStart>(input),
        body_as::<TeleportProgress<'_>>(input),
        body_as::<TeleportFailed<'_>>(input),
        body_as::<TeleportCancel>(input),
        body_as::<RegionHandshake<'_>>(input),
        body_as::<RegionHandshakeReply>(input),
        body_as::<AgentThrottle<'_>>(input),
        body_as::<AgentPause>(input),
        body_as::<AgentResume>(input),
        body_as::<DenyTrustedCircuit>(input),
        body_as::<ImageData<'_>>(input),
        body_as::<ImagePacket<'_>>(input),
        body_as::<ImageNotInDatabase>(input),
        body_as::<TransferInfo<'_>>(input),
        body_as::<TransferPacket<'_>>(input),
        body_as::<TransferAbort>(input),
        body_as::<ChatFromViewer<'_>>(input),
        body_as::<ChatFromSimulator<'_>>(input),
    ];
    assert!(baked_textures(input).map_or(0, |baked| baked.len()) <= 11);
    for number in [MessageNumber::REQUEST_IMAGE, MessageNumber::TRANSFER_REQUEST] {
        if let Ok(requests) = asset_requests(number, input) {
            assert!(requests.count() <= 255);
        }
    }
    read.contains(&true)
}

fn address_rewriting(input: &[u8]) -> bool {
    const SEED_URL: &str = "http://127.0.0.1:9080/cap/0123456789abcdef0123456789abcdef/";
    let mut rewritten = false;
    for number in [
        MessageNumber::OPEN_CIRCUIT,
        MessageNumber::ENABLE_SIMULATOR,
        MessageNumber::CROSSED_REGION,
        MessageNumber::TELEPORT_FINISH,
    ] {
        let endpoint = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 13_001);
        let out = rewrite_addresses(number, input, &mut |_| {
            Some(Replacement { endpoint, seed: Some(SEED_URL.to_owned()) })
        });
        if let Ok(Some(out)) = out {
            assert!(out.len() <= input.len() + SEED_URL.len() + 1);
            rewritten |= number == MessageNumber::TELEPORT_FINISH;
        }
    }
    rewritten
}

fn asset(kind: AssetKind, input: &[u8]) -> bool {
    let _ = j2c::header(input);
    let comments: usize = j2c::comments(input).map(<[u8]>::len).sum();
    assert!(comments <= input.len());
    if let Ok(header) = mesh::header(input) {
        let _ = header.total_bytes();
    }
    let _ = mesh::total_length(input);
    let _ = policy::is_client_bake(input);
    let _ = policy::content_matches_kind(kind, input);
    validate(kind, input).is_ok()
}

fn headers(input: &[u8]) -> bool {
    for total in [0, 1, 600, 10_000, u64::MAX] {
        if let RangeAnswer::Part(part) = RangeRequest::parse(Some(input)).answer(total) {
            let shown = ContentRange::of(part, total).expect("an answer lies inside the asset");
            assert_eq!(ContentRange::parse(shown.to_string().as_bytes()), Some(shown));
        }
    }
    let _ = policy::accepts(AssetKind::Texture, Some(input));
    let query = std::str::from_utf8(input).ok().and_then(AssetQuery::parse);
    ContentRange::parse(input).is_some()
        || query.is_some()
        || matches!(RangeRequest::parse(Some(input)), RangeRequest::From { .. })
}

fn llsd_nodes(value: &Llsd) -> usize {
    match value {
        Llsd::Array(items) => 1 + items.iter().map(llsd_nodes).sum::<usize>(),
        Llsd::Map(entries) => 1 + entries.iter().map(|(_, value)| llsd_nodes(value)).sum::<usize>(),
        _ => 1,
    }
}

fn llsd_binary(input: &[u8]) -> bool {
    let Ok((value, used)) = binary::decode(input) else {
        return false;
    };
    assert!(used <= input.len());
    assert!(llsd_nodes(&value) <= used, "every value takes at least its tag");
    let written = binary::encode(&value).expect("what was read can be written");
    assert!(written.len() <= used);
    true
}

fn xml_nodes(node: &SpannedNode<'_>) -> usize {
    1 + node.items().iter().map(xml_nodes).sum::<usize>()
        + node.entries().iter().map(|(_, value)| xml_nodes(value)).sum::<usize>()
}

fn llsd_xml(input: &[u8]) -> bool {
    let Ok(document) = xml::parse(input) else {
        return false;
    };
    assert!(xml_nodes(&document) <= input.len() / 4 + 1, "every value takes at least <x/>");
    true
}

/// Answers everything with one alias.
struct Always;

const ALIAS: &str = "http://127.0.0.1:9080/cap/0123456789abcdef0123456789abcdef/";

impl Aliases for Always {
    fn simulator(&mut self, _: SocketAddrV4) -> Option<SocketAddrV4> {
        Some(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 13_001))
    }

    fn capability(&mut self, _: CapabilityClass, _: &str) -> Option<String> {
        Some(ALIAS.to_owned())
    }
}

/// A splice replaces at least one byte of the input by at most an alias.
fn assert_bounded(input: &[u8], output: Option<&[u8]>) -> bool {
    output.is_some_and(|output| {
        assert!(output.len() <= (input.len() + 1) * (ALIAS.len() + 16), "{} bytes", output.len());
        true
    })
}

fn xmlrpc(input: &[u8]) -> bool {
    let call = MethodCall::read(input).is_some();
    let response = MethodResponse::read(input, &["login", "sim_ip"]).is_ok_and(|response| {
        let _ = response.is_fault();
        response.text_of("sim_ip").is_none_or(|text| text.len() <= input.len())
    });
    call || response
}

fn login_reply(input: &[u8]) -> bool {
    let mut read = false;
    for format in [LoginFormat::XmlRpc, LoginFormat::Llsd] {
        read |= !matches!(LoginReply::read(input, format), LoginReply::Unreadable);
        assert_bounded(input, login::rewrite(input, format, &mut Always).as_deref());
        assert_bounded(input, login::rewrite_next_url(input, format, ALIAS).as_deref());
    }
    read
}

fn seed_reply(input: &[u8]) -> bool {
    let rewritten = seed::rewrite(input, &mut Always);
    assert!(rewritten.names.len() <= input.len());
    assert_bounded(input, rewritten.body.as_deref())
}

fn event_queue(input: &[u8]) -> bool {
    let _ = events::poll_ack(input);
    let rewritten = events::rewrite(input, &mut Always);
    assert!(rewritten.events.len() <= input.len());
    assert_bounded(input, rewritten.body.as_deref())
}

fn grid_infos(input: &[u8]) -> bool {
    let _ = grid_info::read_xml(input);
    let bodies = [
        grid_info::rewrite_xml(input, ALIAS).ok(),
        grid_info::rewrite_json(input, ALIAS),
        grid_info::rewrite_xmlrpc(input, ALIAS),
    ];
    bodies.into_iter().flatten().fold(false, |_, info| {
        // JSON is written anew, and may escape what stood there plainly.
        assert!(info.body.len() <= (input.len() + ALIAS.len()) * 8 + 64);
        true
    })
}
