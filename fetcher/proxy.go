package fetcher

import (
	"errors"
	"fmt"
	"net/url"

	"golang.org/x/net/http/httpproxy"
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
		return nil, errors.New("network.proxy: neither system, none nor a URL")
	}
	switch u.Scheme {
	case "http", "https", "socks5", "socks5h":
		return func(*url.URL) (*url.URL, error) { return u, nil }, nil
	}
	return nil, fmt.Errorf("network.proxy: scheme %.20q", u.Scheme)
}
