"""Destinations: the grammar, the named sets, and that three ways of deciding agree."""

import ipaddress
import socket

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ebpfaudit.errors import ProfileError
from ebpfaudit.profiles.addresses import NOT_PUBLIC, SETS, IpEntry, parse_entry
from ebpfaudit.profiles.devices import GpuEntry, GpuPolicy
from ebpfaudit.profiles.network import MAX_RULES_PER_NODE, NetworkPolicy
from ebpfaudit.verdicts import ACTIONS

SECTION_ACTIONS = ("allow", "log", "alert", "deny", "kill")


def policy(default: str, **entries: list[str]) -> NetworkPolicy:
    parsed = [parse_entry(text, action) for action, texts in entries.items() for text in texts]
    return NetworkPolicy(default, tuple(parsed))


def address16(text: str) -> bytes:
    if ":" in text:
        return socket.inet_pton(socket.AF_INET6, text)
    return b"\0" * 10 + b"\xff\xff" + socket.inet_pton(socket.AF_INET, text)


def decide(network: NetworkPolicy, text: str, port: int = 80, protocol: str = "tcp") -> str:
    return network.decide_ip(address16(text), port, protocol)[0]


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("loopback", ["127.0.0.1", "127.9.9.9", "0.0.0.0", "::1", "::"], ["128.0.0.1", "::2"]),
        ("private", ["10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.0.1", "100.64.0.1", "fd12::1",
                     "::ffff:10.1.2.3", "64:ff9b::a01:203", "64:ff9b:1::a01:203"],
         ["172.32.0.1", "100.128.0.1", "11.0.0.1", "fe80::1"]),
        ("link-local", ["169.254.1.1", "fe80::1", "febf::1"], ["169.255.0.1", "fec0::1"]),
        ("metadata", ["169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe", "fd00:ec2::254",
                      "169.254.170.2", "169.254.170.23", "fd00:ec2::23", "100.100.100.200", "168.63.129.16"],
         ["169.254.169.253", "fd00:ec2::255"]),
        ("multicast", ["224.0.0.1", "239.1.1.1", "255.255.255.255", "ff02::1"], ["223.255.255.255", "240.0.0.1"]),
        ("public", ["8.8.8.8", "198.51.100.9", "2001:db8::1", "64:ff9b::808:808", "240.0.0.1", "::ffff:8.8.8.8"],
         ["10.0.0.1", "127.0.0.1", "0.0.0.0", "::1", "169.254.169.254", "fe80::1", "fd00::1", "224.0.0.1",
          "100.64.0.1", "168.63.129.16", "::ffff:10.0.0.1"]),
        ("any", ["8.8.8.8", "10.0.0.1", "::1", "ff02::1"], []),
    ],
)  # fmt: skip
def test_named_set_holds_what_its_name_says(name, inside, outside):
    network = policy("deny", allow=[name])

    assert [text for text in inside if decide(network, text) != "allow"] == []
    assert [text for text in outside if decide(network, text) != "deny"] == []


def test_most_specific_prefix_wins_then_the_stricter_action():
    network = policy(
        "log", allow=["10.0.0.0/8"], kill=["10.1.0.0/16"], deny=["10.1.2.0/24"], alert=["10.1.0.0/16"]
    )

    assert decide(network, "10.9.9.9") == "allow"
    assert decide(network, "10.1.9.9") == "kill"
    assert decide(network, "10.1.2.9") == "deny"
    assert decide(network, "9.9.9.9") == "log"
    assert network.decide_ip(address16("9.9.9.9"), 1, "udp") == ("log", "default")


def test_entry_whose_port_or_protocol_differs_is_no_candidate():
    network = policy(
        "deny", allow=["10.0.0.5:3128/tcp", "any:53", "[fd00::5]:8000-8010"], kill=["10.0.0.0/8:22"]
    )

    assert decide(network, "10.0.0.5", 3128, "tcp") == "allow"
    assert decide(network, "10.0.0.5", 3128, "udp") == "deny"
    assert decide(network, "10.0.0.5", 22) == "kill"
    assert decide(network, "10.0.0.5", 53, "udp") == "allow"
    assert decide(network, "fd00::5", 8010) == "allow"
    assert decide(network, "fd00::5", 8011) == "deny"


def test_public_and_ipv6_prefixes_leave_out_what_is_not_theirs():
    network = policy("deny", allow=["public"], log=["::/0"], alert=["any"])

    assert decide(network, "8.8.8.8") == "allow"
    assert decide(network, "10.0.0.1") == "alert"
    assert decide(network, "fd00::1") == "alert"
    assert decide(policy("deny", allow=["::/0"]), "8.8.8.8") == "deny"
    assert decide(policy("deny", allow=["::/0"]), "2001:db8::1") == "allow"
    assert decide(policy("deny", allow=["0.0.0.0/0"]), "2001:db8::1") == "deny"


def test_unix_sockets_longest_match_wins_and_exact_beats_prefix():
    network = policy(
        "deny",
        allow=["unix:/tmp/*", "unix:@*", "unix:/run/x"],
        kill=["unix:/tmp/secret*", "unix:@bad"],
        log=["unix:/run/x*"],
    )

    decisions = {path: network.decide_unix(path)[0] for path in
                 ("/tmp/a", "/tmp/secrets", "/tmp", "@anything", "@bad", "@bade", "/run/x", "/run/xy", "", "tmp/a")}  # fmt: skip
    assert decisions == {
        "/tmp/a": "allow", "/tmp/secrets": "kill", "/tmp": "deny", "@anything": "allow", "@bad": "kill",
        "@bade": "allow", "/run/x": "allow", "/run/xy": "log", "": "deny", "tmp/a": "deny",
    }  # fmt: skip
    assert policy("deny", allow=["unix:*"]).decide_unix("a")[0] == "allow"
    assert {node.path for node in network.unix_nodes() if node.exact} == {b"/run/x", b"\0bad"}


def test_unix_nodes_come_longest_first():
    nodes = policy("deny", allow=["unix:/a*", "unix:/a/b/*", "unix:/a/b/"]).unix_nodes()

    assert [(node.path, node.exact) for node in nodes] == [
        (b"/a/b/", True),
        (b"/a/b/", False),
        (b"/a", False),
    ]


networks = st.one_of(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(
        lambda pair: str(
            ipaddress.ip_network((pair[0] & 0x0A0103FF | pair[0] & 0x3000, pair[1]), strict=False)
        )
    ),
    st.tuples(st.integers(0, 2**12), st.integers(0, 128)).map(
        lambda pair: str(ipaddress.ip_network(((0xFD00 << 112) + pair[0], pair[1]), strict=False))
    ),
    st.sampled_from([*SETS, "public", "any", "10.1.2.3", "::ffff:10.1.0.0/112", "::/0", "0.0.0.0/0"]),
)
ports = st.sampled_from(["", ":80", ":79-81", ":1-65535", ":443"])
entries = st.tuples(
    networks, ports, st.sampled_from(["", "/tcp", "/udp"]), st.sampled_from(SECTION_ACTIONS)
).map(
    lambda parts: parse_entry(
        (f"[{parts[0]}]" if ":" in parts[0] and parts[1] else parts[0]) + parts[1] + parts[2], parts[3]
    )
)
addresses = st.one_of(
    st.integers(0, 2**32 - 1).map(lambda number: (0xFFFF << 32) | number & 0x0A0103FF | number & 0x3000),
    st.integers(0, 2**13).map(lambda number: (0xFD00 << 112) + number),
    st.sampled_from([first for first, _bits in NOT_PUBLIC]),
    st.integers(0, 2**128 - 1),
)


def naive_decision(default, chosen, address, port, protocol):
    """The rule as the reference states it, entry by entry."""
    best = (-1, 0, default)
    for entry in chosen:
        assert isinstance(entry, IpEntry)
        holds = lambda net: (address ^ net[0]) >> (128 - net[1]) == 0  # noqa: E731
        if any(holds(hole) for hole in entry.holes) or not entry.port_low <= port <= entry.port_high:
            continue
        if entry.protocol not in ("", protocol):
            continue
        for network in entry.networks:
            if holds(network):
                best = max(best, (network[1], ACTIONS.index(entry.action), entry.action))
    return best[2]


def longest_prefix_decision(nodes, address, port, protocol):
    """What the probe does with the nodes."""
    node = max(
        (
            node for node in nodes
            if (int.from_bytes(node.address16, "big") ^ address) >> (128 - node.prefix_bits) == 0
        ),
        key=lambda node: node.prefix_bits,
    )  # fmt: skip
    return next(
        rule.action for rule in node.rules
        if rule.port_low <= port <= rule.port_high and rule.protocol in ("", protocol)
    )  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(
    st.lists(entries, max_size=8), st.sampled_from(SECTION_ACTIONS), st.lists(addresses, min_size=1, max_size=6),
    st.sampled_from([0, 22, 79, 80, 443]), st.sampled_from(["tcp", "udp", "icmp"]),
)  # fmt: skip
@example([parse_entry("public", "allow")], "deny", [(0xFFFF << 32) | 0x0A000001], 80, "tcp")
def test_decisions_of_policy_reference_and_kernel_nodes_agree(chosen, default, asked, port, protocol):
    network = NetworkPolicy(default, tuple(chosen))
    nodes = network.ip_nodes()

    for address in asked:
        decided = network.decide_ip(address.to_bytes(16, "big"), port, protocol)[0]
        assert decided == naive_decision(default, chosen, address, port, protocol)
        assert decided == longest_prefix_decision(nodes, address, port, protocol)
    for node in nodes:
        last = node.rules[-1]
        assert len(node.rules) <= MAX_RULES_PER_NODE
        assert (last.port_low, last.port_high, last.protocol) == (0, 65535, "")


def test_too_many_rules_at_one_prefix_is_an_error():
    chosen = policy("deny", allow=[f"any:{port}" for port in range(1, 17)])

    with pytest.raises(ProfileError, match="at most 16"):
        chosen.ip_nodes()


def gpu(default: str, **entries: list[str]) -> GpuPolicy:
    return GpuPolicy(
        default, tuple(GpuEntry(text, action) for action, texts in entries.items() for text in texts)
    )


@pytest.mark.parametrize(
    ("device", "uuid", "action"),
    [
        ("nvidia:0", "", "allow"),
        ("nvidia:1", "", "deny"),
        ("nvidia:ctl", "", "allow"),
        ("nvidia:uvm", "GPU-anything", "allow"),
        ("amd:0", "", "deny"),
        ("kfd", "", "deny"),
    ],
)
def test_gpu_granted_by_number_brings_what_its_vendor_shares(device, uuid, action):
    assert gpu("deny", allow=["nvidia:0"]).decide(device, uuid)[0] == action


@pytest.mark.parametrize(
    ("device", "uuid", "action"),
    [
        ("nvidia:0", "", "allow"),
        ("nvidia:uvm", "", "allow"),
        ("nvidia:uvm", "GPU-aa", "allow"),
        ("nvidia:uvm", "GPU-bb", "kill"),
        ("amd:render", "GPU-bb", "kill"),
    ],
)
def test_gpu_granted_by_uuid_is_judged_where_the_uuid_is_known(device, uuid, action):
    assert gpu("kill", allow=["GPU-aa"]).decide(device, uuid)[0] == action


def test_gpu_specificity_and_strictness():
    devices = gpu("allow", deny=["nvidia:*"], log=["nvidia:1"], kill=["any"])

    assert devices.decide("nvidia:1", "") == ("log", "nvidia:1")
    assert devices.decide("nvidia:2", "") == ("deny", "nvidia:*")
    assert devices.decide("amd:0", "") == ("kill", "any")
    assert gpu("deny").decide("nvidia:ctl", "") == ("deny", "default")
