package wsus

import (
	"encoding/base64"
	"strconv"
	"strings"

	"github.com/hashike/hashike/internal/feed"
)

// The handshake and the smaller operations of MS-WUSP, as a terminal calls them.

var authOperations = map[string]operation{"GetAuthorizationCookie": (*server).getAuthorizationCookie}

var clientOperations = map[string]operation{
	"GetConfig": (*server).getConfig, "GetCookie": (*server).getCookie, "RegisterComputer": (*server).registerComputer,
	"StartCategoryScan": (*server).startCategoryScan, "SyncUpdates": (*server).syncUpdates, "RefreshCache": (*server).refreshCache,
	"GetExtendedUpdateInfo": (*server).getExtendedUpdateInfo, "GetFileLocations": (*server).getFileLocations,
}

var reportOperations = map[string]operation{"ReportEventBatch": (*server).reportEventBatch}

const (
	plugIn          = "SimpleTargeting"
	maxExtended     = 50 // revisions per GetExtendedUpdateInfo, as told in GetConfig
	protocolVersion = "3.2"
)

func (s *server) getConfig(c *call) error {
	if err := c.walk(ignore); err != nil {
		return err
	}
	root := ""
	if s.Base != nil {
		root = strings.TrimPrefix(s.Base.Path, "/")
	}
	c.begin("GetConfigResult")
	c.put("LastChange", stamp(lastChange))
	c.flag("IsRegistrationRequired", true)
	c.begin("AuthInfo", "AuthPlugInInfo")
	c.put("PlugInID", plugIn)
	c.put("ServiceUrl", root+"SimpleAuthWebService/SimpleAuth.asmx")
	c.put("Parameter", "")
	c.end(2)
	c.begin("Properties") // without these a modern client stops with 0x8024402A
	for _, p := range [][2]string{{"MaxExtendedUpdatesPerRequest", strconv.Itoa(maxExtended)}, {"ProtocolVersion", protocolVersion},
		{"IsInventoryRequired", "0"}, {"ClientReportingLevel", "2"}} {
		c.begin("ConfigurationProperty")
		c.put("Name", p[0])
		c.put("Value", p[1])
		c.end(1)
	}
	c.end(2)
	return nil
}

func ignore(string, string) error { return nil }

func (s *server) getAuthorizationCookie(c *call) error {
	return s.authorise(c, cookieAuth, plugIn, "clientId", func(k *cookie) map[string]*string {
		return map[string]*string{"clientId": &k.client, "targetGroupName": &k.group, "dnsName": &k.name}
	})
}

// authorise gives whoever names itself a cookie for one GetCookie. id is the
// parameter that holds its GUID.
func (s *server) authorise(c *call, use cookieUse, plugIn, id string, parameters func(*cookie) map[string]*string) error {
	k := cookie{use: use, expires: s.conf.now().Add(cookieLife), epoch: s.epoch}
	fields := parameters(&k)
	err := c.walk(func(path, text string) error {
		into, ok := fields[path]
		if !ok {
			return nil
		}
		if len(text) > maxText {
			return invalid(path)
		}
		*into = strings.TrimSpace(text)
		return nil
	})
	if err != nil {
		return err
	}
	if _, err := parseGUID(k.client); err != nil {
		return invalid(id)
	}
	k.client = strings.ToLower(k.client)
	c.begin("GetAuthorizationCookieResult")
	c.put("PlugInId", plugIn)
	c.put("CookieData", base64.StdEncoding.EncodeToString(s.seal.seal(k)))
	c.end(1)
	return nil
}

func (s *server) getCookie(c *call) error {
	var auth []byte
	var old cookieFields
	protocol := ""
	err := c.walk(func(path, text string) (err error) {
		switch path {
		case "authCookies/AuthorizationCookie/CookieData":
			if auth, err = base64.StdEncoding.DecodeString(strings.TrimSpace(text)); err != nil {
				return &fault{"InvalidAuthorizationCookie", "InvalidAuthorizationCookie"}
			}
		case "protocolVersion":
			if protocol = strings.TrimSpace(text); len(protocol) > 16 {
				return invalid(path)
			}
		default:
			if strings.HasPrefix(path, "oldCookie/") {
				return old.take(path, text)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	k, err := s.seal.open(auth)
	if err != nil || k.use != cookieAuth || s.conf.now().After(k.expires) {
		return &fault{"InvalidAuthorizationCookie", "InvalidAuthorizationCookie"}
	}
	k.use, k.protocol, k.expires = cookieSession, protocol, s.conf.now().Add(cookieLife)
	// What the terminal has seen, an old cookie tells, also an expired one.
	if was, err := s.seal.open(old.sealed); err == nil && was.use == cookieSession && was.client == k.client && was.epoch == k.epoch {
		k.serial, k.mark, k.drivers = was.serial, was.mark, was.drivers
	}
	if v, ok := s.rings[s.ringOf(c.http, k.group)]; ok {
		k.epoch = v.Epoch
	}
	if k.client != probeClient {
		s.Ledger.Saw(s.sighting(k, "asked"))
		now := s.conf.now().UTC()
		s.Ledger.Change(s.Feed, k.client, func(t *feed.Terminal) {
			t.Group, t.Contact = k.group, now
			t.Called(k.name, now) // always the name of SimpleAuth: other messages may write it otherwise
		})
	}
	c.begin("GetCookieResult")
	s.cookieBody(&c.answer, k)
	c.end(1)
	return nil
}

func (s *server) sighting(k cookie, event string) feed.Sighting {
	return feed.Sighting{Time: s.conf.now().UTC(), Feed: s.Feed, Terminal: k.client, Name: k.name, Event: event}
}

func (s *server) registerComputer(c *call) error {
	var f cookieFields
	info := map[string]string{}
	err := c.walk(func(path, text string) error {
		if name, ok := strings.CutPrefix(path, "computerInfo/"); ok && len(text) <= maxText && len(info) < 100 {
			info[name] = strings.TrimSpace(text)
		}
		return f.take(path, text)
	})
	if err != nil {
		return err
	}
	k, _, _, err := s.session(c, f)
	if err != nil {
		return err
	}
	now := s.conf.now().UTC()
	s.Ledger.Change(s.Feed, k.client, func(t *feed.Terminal) {
		t.Group, t.Contact = k.group, now
		if t.Registered.IsZero() {
			t.Registered = now
		}
		version := strings.Trim(info["OSMajorVersion"]+"."+info["OSMinorVersion"]+"."+info["OSBuildNumber"], ".")
		t.System = strings.Join(strings.Fields(info["OSDescription"]+" "+version+" "+info["ProcessorArchitecture"]), " ")
		t.Model = strings.TrimSpace(info["ComputerManufacturer"] + " " + info["ComputerModel"])
	})
	s.Ledger.Saw(s.sighting(k, "registered"))
	return nil
}

const maxCategories = 64

func (s *server) startCategoryScan(c *call) error {
	var known []string
	err := c.walk(func(path, text string) (err error) {
		if path == "requestedCategories/CategoryRelationship/CategoryId" {
			if _, err := parseGUID(strings.TrimSpace(text)); err != nil {
				return invalid("requestedCategories")
			}
			known, err = texts(known, text, "requestedCategories", maxCategories)
		}
		return err
	})
	if err != nil {
		return err
	}
	c.begin("preferredCategoryIds")
	for _, g := range known {
		c.put("guid", g)
	}
	c.end(1)
	c.begin("requestedCategoryIdsInError")
	c.end(1)
	return nil
}

func (s *server) refreshCache(c *call) error {
	var f cookieFields
	var ids []identity
	err := c.walk(func(path, text string) error {
		switch path {
		case "globalIDs/UpdateIdentity/UpdateID":
			g, err := parseGUID(strings.TrimSpace(text))
			if err != nil || len(ids) >= 100_000 {
				return invalid("globalIDs")
			}
			ids = append(ids, identity{Update: g})
		case "globalIDs/UpdateIdentity/RevisionNumber":
			n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 32)
			if err != nil || len(ids) == 0 {
				return invalid("globalIDs")
			}
			ids[len(ids)-1].Number = int32(n)
		default:
			return f.take(path, text)
		}
		return nil
	})
	if err != nil {
		return err
	}
	_, v, sc, err := s.session(c, f)
	if err != nil {
		return err
	}
	c.begin("RefreshCacheResult")
	for _, id := range ids {
		n, ok := v.numbers[id.Update]
		i, seen := v.exact[bundled{n, id.Number}]
		if !ok || !seen {
			continue
		}
		c.begin("RefreshCacheResult")
		c.int("RevisionID", v.Revisions[i].ID)
		c.begin("GlobalID")
		c.put("UpdateID", id.Update.String())
		c.int("RevisionNumber", id.Number)
		c.end(1)
		c.flag("IsLeaf", sc.leaf(i))
		if d, ok := sc.deploy[i]; ok {
			putDeployment(&c.answer, v, i, d, nil)
		}
		c.end(1)
	}
	c.end(1)
	return nil
}

func (s *server) getFileLocations(c *call) error {
	var f cookieFields
	want := map[[20]byte]bool{}
	err := c.walk(func(path, text string) error {
		if path != "fileDigests/base64Binary" {
			return f.take(path, text)
		}
		b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
		if err != nil || len(b) != 20 || len(want) >= 10_000 {
			return invalid("fileDigests")
		}
		want[[20]byte(b)] = true
		return nil
	})
	if err != nil {
		return err
	}
	k, v, _, err := s.session(c, f)
	if err != nil {
		return err
	}
	c.begin("GetFileLocationsResult")
	c.begin("FileLocations")
	for _, file := range v.Files {
		if want[file.SHA1] && v.here(file.Path) {
			s.putLocation(c, file)
		}
	}
	c.end(1)
	s.putCookie(&c.answer, "NewCookie", k)
	c.end(1)
	return nil
}

func (s *server) putLocation(c *call, f payloadFile) {
	c.begin("FileLocation")
	c.put("FileDigest", base64.StdEncoding.EncodeToString(f.SHA1[:]))
	c.put("Url", s.location(c.http, f))
	c.end(1)
}
