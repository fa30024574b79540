package fetcher

import (
	"fmt"
	"net/url"

	"golang.org/x/net/http/httpproxy"

	"github.com/hashike/hashike/internal/feed"
)

// proxyFunc reads Network.Proxy. The environment is read now, once.
func proxyFunc(setting string) (func(*url.URL) (*url.URL, error), error) {
	switch setting {
	case "", "system":
		c := httpproxy.FromEnvironment()
		if c.HTTPProxy == "" && c.HTTPSProxy == "" {
			c = systemProxy(c)
		}
		return c.ProxyFunc(), nil
	case "none":
		return func(*url.URL) (*url.URL, error) { return nil, nil }, nil
	}
	u, err := url.Parse(setting)
	if err != nil || u.Host == "" {
		return nil, feed.NewFault(fmt.Errorf("proxy setting is no URL: %w", feed.ErrConfig), "H-202", "key", "proxy")
	}
	switch u.Scheme {
	case "http", "https", "socks5", "socks5h":
		return func(*url.URL) (*url.URL, error) { return u, nil }, nil
	}
	return nil, feed.NewFault(fmt.Errorf("proxy scheme %.20q: %w", u.Scheme, feed.ErrConfig), "H-202", "key", "proxy")
}
