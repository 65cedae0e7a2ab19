/* No way round the connect hooks: refuses, in an episode with a [network] section, what they could not judge.
 *
 * Hooks: cgroup sock_create (at the cgroup2 root, by the current task's tag) and cgroup setsockopt (5.7 for links).
 * - Sockets of protocols for which the kernel runs no connect hook: UDP-Lite, SCTP, DCCP and the like. Where the
 *   section refuses by default, raw and ping sockets too.
 * - Socket options that send packets elsewhere than to the address that was judged: IPv6 routing headers, IPv4 source
 *   routes; and, where the section refuses by default, binding to a device, by which loopback leaves the host.
 * Each refusal is a connect event, denied, with the protocol that was refused and no address.
 * Cannot see: packet and vsock sockets (no such hook); a routing header passed as ancillary data to one sendmsg, on
 * kernels with CONFIG_IPV6_MIP6; sockets that were made outside the episode.
 */

#define SOCK_RAW 3
#define PROTOCOL_ICMP 1
#define PROTOCOL_TCP 6
#define PROTOCOL_UDP 17
#define PROTOCOL_ROUTING 43
#define PROTOCOL_ICMP6 58
#define PROTOCOL_MPTCP 262
#define PROTOCOL_BOUND_DEVICE 254 /* our own: "for experimentation" in the registry */
#define PROTOCOL_RAW 255          /* any, on a raw socket */

static __always_inline void refuse_unjudged(u32 tgid, struct tag *tag, u8 family, u8 protocol)
{
	u32 address[4];
	clear_address(address);
	if (family == 6)
		address[2] = 0;
	report_attempt(tgid, tag, address, 0, family, protocol, DECISION_DENY);
}

int on_socket(struct bpf_sock *ctx)
{
	u32 tgid = current_tgid();
	struct tag *tag = tags.lookup(&tgid);
	struct episode_config *config = tag ? config_of(tag->episode) : NULL;
	if (!config || !config->enforce || !config->network)
		return 1;
	u32 protocol = ctx->protocol;
	if (ctx->type == SOCK_RAW || protocol == PROTOCOL_ICMP || protocol == PROTOCOL_ICMP6) {
		if (!config->closed)
			return 1;
	} else if (!protocol || protocol == PROTOCOL_TCP || protocol == PROTOCOL_UDP || protocol == PROTOCOL_MPTCP) {
		return 1;
	}
	if (ctx->type == SOCK_RAW)
		protocol = PROTOCOL_RAW;
	refuse_unjudged(tgid, tag, ctx->family == 10 ? 6 : 4, protocol);
	return 0;
}

#define LEVEL_IP 0
#define LEVEL_SOCKET 1
#define LEVEL_IPV6 41

int on_socket_option(struct bpf_sockopt *ctx)
{
	u32 tgid = current_tgid();
	struct tag *tag = tags.lookup(&tgid);
	struct episode_config *config = tag ? config_of(tag->episode) : NULL;
	if (!config || !config->enforce || !config->network)
		return 1;
	u32 level = ctx->level, option = ctx->optname, protocol = 0;
	if (level == LEVEL_IPV6 && (option == 57 || option == 5 || option == 6))
		protocol = PROTOCOL_ROUTING; /* IPV6_RTHDR, IPV6_2292RTHDR, IPV6_2292PKTOPTIONS */
	else if (level == LEVEL_IP && option == 4)
		protocol = PROTOCOL_ROUTING; /* IP_OPTIONS */
	else if (config->closed && level == LEVEL_SOCKET && (option == 25 || option == 62))
		protocol = PROTOCOL_BOUND_DEVICE; /* SO_BINDTODEVICE, SO_BINDTOIFINDEX */
	if (!protocol)
		return 1;
	refuse_unjudged(tgid, tag, level == LEVEL_IPV6 ? 6 : 4, protocol);
	return 0;
}
