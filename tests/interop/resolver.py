"""Reads every kind of answer of the director's name server with dnspython.

Usage: resolver.py PORT FEW|MANY
The zone is cache.example.org., with two addresses of each family, or with 60 of IPv6.
"""

import sys

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.query
import dns.rcode
import dns.rdatatype
import dns.resolver

PORT = int(sys.argv[1])
NAME = dns.name.from_text("cache.example.org.")
UDP = {"where": "127.0.0.1", "port": PORT, "timeout": 10}


def ask(name, kind, over, **how):
    question = dns.message.make_query(name, kind, **how)
    answer = over(question, **UDP)
    assert question.is_response(answer), answer
    assert not answer.flags & dns.flags.RA, answer
    return answer


def values(answer):
    return sorted(str(value) for records in answer.answer for value in records)


def denied(answer, code):
    assert answer.rcode() == code and answer.flags & dns.flags.AA, answer
    assert not answer.answer and len(answer.authority) == 1, answer
    authority = answer.authority[0]
    assert authority.rdtype == dns.rdatatype.SOA and authority.name == NAME, answer
    # Source: RFC 2308, 5: resolvers remember it for the lesser of both.
    # Nodes come back within the zone's TTL; a name that is none stays so.
    steady = 60 if answer.rcode() == dns.rcode.NXDOMAIN else 5
    assert (authority.ttl, authority[0].minimum) == (steady, 60), answer


def few():
    for over in (dns.query.udp, dns.query.tcp):
        for edns in ({}, {"use_edns": 0, "payload": 512}, {"use_edns": 0, "payload": 4096, "want_dnssec": True}):
            answer = ask(NAME, "A", over, **edns)
            assert values(answer) == ["192.0.2.1", "192.0.2.2"] and answer.flags & dns.flags.AA, answer
            assert answer.answer[0].ttl == 5 and (answer.edns >= 0) == bool(edns), answer
            assert values(ask(NAME, "AAAA", over, **edns)) == ["2001:db8::1", "2001:db8::2"]
            assert values(ask(NAME, "NS", over, **edns)) == ["ns1.example.org.", "ns2.example.org."]
            soa = ask(NAME, "SOA", over, **edns).answer[0][0]
            assert (str(soa.mname), soa.serial, soa.minimum) == ("ns1.example.org.", 2026, 60), soa
            any_answer = ask(NAME, "ANY", over, **edns)
            assert any_answer.answer[0].rdtype == dns.rdatatype.HINFO, any_answer
            denied(ask("www." + str(NAME), "A", over, **edns), dns.rcode.NXDOMAIN)
            for nothing in ("TXT", "MX", "CAA", "HTTPS", "DS", "DNSKEY"):
                denied(ask(NAME, nothing, over, **edns), dns.rcode.NOERROR)
            for outside, kind in (("example.org.", "A"), (".", "NS"), (NAME, "AXFR"), ("version.bind.", "TXT")):
                answer = ask(outside, kind, over, **edns)
                assert answer.rcode() == dns.rcode.REFUSED and not answer.flags & dns.flags.AA, answer
                assert not answer.answer and not answer.authority, answer
        options = [dns.edns.CookieOption(b"abcdefgh", b""), dns.edns.ECSOption("203.0.113.0", 24)]
        assert values(ask(NAME, "A", over, use_edns=0, options=options)) == ["192.0.2.1", "192.0.2.2"]
        newer = ask(NAME, "A", over, use_edns=1)
        assert newer.rcode() == dns.rcode.BADVERS and newer.edns == 0 and not newer.answer, newer
        update = dns.message.Message()
        update.set_opcode(dns.opcode.NOTIFY)
        assert over(update, **UDP).rcode() == dns.rcode.NOTIMP


def many():
    cut = ask(NAME, "AAAA", dns.query.udp)
    assert cut.flags & dns.flags.TC and not cut.answer, cut
    question = dns.message.make_query(NAME, "AAAA")
    answer, over_tcp = dns.query.udp_with_fallback(question, **UDP)
    assert over_tcp and len(values(answer)) == 40, answer
    roomy = ask(NAME, "AAAA", dns.query.udp, use_edns=0, payload=4096)
    assert not roomy.flags & dns.flags.TC and len(values(roomy)) == 40, roomy
    seen = set()
    for _ in range(60):
        seen.update(values(ask(NAME, "AAAA", dns.query.tcp)))
    assert len(seen) == 60, len(seen)


{"FEW": few, "MANY": many}[sys.argv[2]]()

resolver = dns.resolver.Resolver(configure=False)
resolver.nameservers, resolver.port = ["127.0.0.1"], PORT
assert len(list(resolver.resolve(NAME, "AAAA"))) == {"FEW": 2, "MANY": 40}[sys.argv[2]]
try:
    resolver.resolve("nothing.cache.example.org.", "A")
except dns.resolver.NXDOMAIN:
    print("read")
