package fetcher

import (
	"strings"

	"golang.org/x/net/http/httpproxy"
	"golang.org/x/sys/windows/registry"
)

// systemProxy reads the account's proxy of the Windows internet settings
// ("host:port" or "http=host:port;https=host:port"; overrides with ";").
// Automatic configuration scripts are not evaluated.
func systemProxy(c *httpproxy.Config) *httpproxy.Config {
	k, err := registry.OpenKey(registry.CURRENT_USER, `Software\Microsoft\Windows\CurrentVersion\Internet Settings`, registry.QUERY_VALUE)
	if err != nil {
		return c
	}
	defer k.Close()
	if on, _, err := k.GetIntegerValue("ProxyEnable"); err != nil || on == 0 {
		return c
	}
	server, _, err := k.GetStringValue("ProxyServer")
	if err != nil {
		return c
	}
	out := *c
	for part := range strings.SplitSeq(server, ";") {
		scheme, addr, named := strings.Cut(strings.TrimSpace(part), "=")
		switch {
		case !named:
			out.HTTPProxy, out.HTTPSProxy = scheme, scheme
		case scheme == "http":
			out.HTTPProxy = addr
		case scheme == "https":
			out.HTTPSProxy = addr
		}
	}
	if over, _, err := k.GetStringValue("ProxyOverride"); err == nil {
		var skip []string
		for o := range strings.SplitSeq(over, ";") {
			if o = strings.TrimSpace(o); o != "" && o != "<local>" {
				skip = append(skip, strings.TrimPrefix(o, "*"))
			}
		}
		out.NoProxy = strings.Join(skip, ",")
	}
	return &out
}
