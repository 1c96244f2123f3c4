from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_twin.collect.addresses import checked_url, shown, why_refused
from llm_twin.core.errors import ItemError

IPV4 = st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address)


@pytest.mark.parametrize(
    "address", ["93.184.215.14", "8.8.8.8", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "172.32.0.1"]
)
def test_public_addresses_may_be_connected_to(address):
    assert why_refused(address) is None


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.0.1", "100.64.0.1", "::1",
        "fc00::1", "fdff:ffff::1", "fec0::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::",
        "2002:c0a8:1::1", "64:ff9b::10.0.0.1", "64:ff9b:1::10.0.0.1", "2a00::5efe:192.168.0.1",
        "2a00::200:5efe:192.168.0.1",
    ],
)  # fmt: skip
def test_addresses_of_ones_own_network_are_refused_unless_allowed(address):
    assert "private" in why_refused(address)
    assert why_refused(address, allow_private=True) is None


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254", "169.254.170.2", "fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16",
        "0.0.0.0", "::", "224.0.0.1", "ff02::1", "fe80::1", "fe80::1%eth0", "240.0.0.1", "255.255.255.255",
        "::ffff:169.254.169.254", "64:ff9b::169.254.169.254", "2002:a9fe:a9fe::", "::ffff:0.0.0.0", "4000::1",
        "nonsense", "",
    ],
)  # fmt: skip
def test_metadata_link_local_multicast_and_reserved_addresses_are_refused_always(address):
    assert why_refused(address)
    assert why_refused(address, allow_private=True)


@given(IPV4, st.booleans())
def test_an_ipv4_address_inside_an_ipv6_address_is_judged_like_itself(inner, allow_private):
    alone = why_refused(str(inner), allow_private=allow_private)
    low, high = divmod(int(inner), 2**16)
    for outer in (f"::ffff:{inner}", f"64:ff9b::{inner}", f"2002:{low:x}:{high:x}::1", f"2a00:1450::5efe:{inner}"):
        assert (why_refused(outer, allow_private=allow_private) is None) == (alone is None), outer


@given(IPV4)
def test_whatever_may_be_connected_to_is_a_global_address(address):
    if why_refused(str(address)) is None:
        assert address.is_global
        assert not address.is_multicast


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("  HTTPS://Jane.Example:443/A b?q=ü#part ", "https://jane.example/A%20b?q=%C3%BC"),
        ("http://bücher.example/ä", "http://xn--bcher-kva.example/%C3%A4"),
        ("http://[2606:2800::1]:8080/", "http://[2606:2800::1]:8080/"),
        ("http://jane_roe.example", "http://jane_roe.example/"),
        ("http://127。0。0。1/", "http://127.0.0.1/"),
    ],
)
def test_addresses_have_one_normal_form(url, normal):
    assert str(checked_url(url)) == normal.removesuffix("/") or str(checked_url(url)) == normal


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://jane:pw@jane.example/", "user name or password"),
        ("http://jane.example:99999/", "port 99999"),
        ("http://jane.example:0/", "port 0"),
        ("http://jane.example:x/", "no web address"),
        ("http:///post", "no host name"),
        ("//jane.example/", "only http and https"),
        ("jane.example/post", "only http and https"),
        ("http://exa\nmple.com/", "no web address"),
        ("http://①②⑦.0.0.1/", "no web address"),
        (f"http://{'a.' * 200}example/", "no host name"),
        (f"http://{'a' * 64}.example/", "no host name|no web address"),
    ],
)
def test_what_is_no_address_to_fetch_is_refused_with_a_reason(url, why):
    with pytest.raises(ItemError, match=why):
        checked_url(url)


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_an_item_error(text):
    for url in (text, f"http://{text}", f"https://jane.example/{text}"):
        try:
            target = checked_url(url)
        except ItemError:
            continue
        assert target.scheme in ("http", "https")
        assert target.raw_host
        assert "?" not in shown(target).removesuffix("?…")
