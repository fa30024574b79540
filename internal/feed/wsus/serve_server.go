package wsus

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"slices"
	"strconv"
	"strings"
)

// The upstream server's side of MS-WSUSSS (rev. 17): an existing WSUS takes its
// metadata and content from here. It keeps its own approvals (autonomous mode).
// Revisions that came as documents are offered; those of a drop's scan are in
// pieces, and no server could use them.

const (
	pathServerLower = "/serversyncwebservice/serversyncwebservice.asmx"
	pathDssLower    = "/dssauthwebservice/dssauthwebservice.asmx"
	serverPlugIn    = "DssTargeting"
	maxFilter       = 2000 // categories and classifications
)

var dssOperations = map[string]operation{"GetAuthorizationCookie": (*server).dssAuthorizationCookie}

var serverOperations = map[string]operation{
	"GetAuthConfig": (*server).getAuthConfig, "GetCookie": (*server).getServerCookie, "GetConfigData": (*server).getConfigData,
	"GetRevisionIdList": (*server).getRevisionIDList, "GetUpdateData": (*server).getUpdateData,
	"GetUpdateDecryptionData": (*server).getUpdateDecryptionData, "DownloadFiles": (*server).downloadFiles,
	"GetDeployments": (*server).getDeployments, "GetRelatedRevisionsForUpdates": (*server).getRelated,
}

func (s *server) getAuthConfig(c *call) error {
	if err := c.walk(ignore); err != nil {
		return err
	}
	root := ""
	if s.Base != nil {
		root = strings.TrimPrefix(s.Base.Path, "/")
	}
	c.begin("GetAuthConfigResult")
	c.put("LastChange", stamp(lastChange))
	c.begin("AuthInfo", "AuthPlugInInfo")
	c.put("PlugInID", serverPlugIn)
	c.put("ServiceUrl", root+strings.TrimPrefix(pathDssAuth, "/"))
	c.put("Parameter", "")
	c.end(3)
	return nil
}

func (s *server) dssAuthorizationCookie(c *call) error {
	return s.authorise(c, cookieServerAuth, serverPlugIn, "accountGuid", func(k *cookie) map[string]*string {
		return map[string]*string{"accountGuid": &k.client, "accountName": &k.name}
	})
}

func (s *server) getServerCookie(c *call) error {
	var auth []byte
	err := c.walk(func(path, text string) (err error) {
		if path == "authCookies/AuthorizationCookie/CookieData" {
			if auth, err = base64.StdEncoding.DecodeString(strings.TrimSpace(text)); err != nil {
				return &fault{"InvalidAuthorizationCookie", "InvalidAuthorizationCookie"}
			}
		}
		if path == "protocolVersion" && !strings.HasPrefix(strings.TrimSpace(text), "1.") {
			return &fault{"IncompatibleProtocolVersion", "IncompatibleProtocolVersion"}
		}
		return nil
	})
	if err != nil {
		return err
	}
	k, err := s.seal.open(auth)
	if err != nil || k.use != cookieServerAuth || s.conf.now().After(k.expires) {
		return &fault{"InvalidAuthorizationCookie", "InvalidAuthorizationCookie"}
	}
	k.use, k.expires = cookieServer, s.conf.now().Add(cookieLife)
	s.putCookie(&c.answer, "GetCookieResult", k)
	return nil
}

// downstream checks the cookie of a call and finds what this server may see.
func (s *server) downstream(c *call, f cookieFields) (cookie, *ringView, error) {
	k, err := s.seal.open(f.sealed)
	switch {
	case err != nil || k.use != cookieServer:
		return k, nil, &fault{"InvalidCookie", "InvalidCookie"}
	case k.epoch != s.epoch:
		return k, nil, &fault{"ServerChanged", "ServerChanged"}
	case s.conf.now().After(k.expires):
		return k, nil, &fault{"CookieExpired", "CookieExpired"}
	}
	v, ok := s.rings[s.Ring(c.http)]
	if !ok {
		return k, nil, &fault{codeBusy, "nothing published yet"}
	}
	return k, v, c.enter(s.servers)
}

// asked reads a call of a downstream server, checks its cookie and finds what
// it may see. take gets every other element.
func (s *server) asked(c *call, take func(path, text string) error) (*ringView, error) {
	var f cookieFields
	err := c.walk(func(path, text string) error {
		if strings.HasPrefix(path, "cookie/") {
			return f.take(path, text)
		}
		return take(path, text)
	})
	if err != nil {
		return nil, err
	}
	_, v, err := s.downstream(c, f)
	return v, err
}

// anchor is counter and time; the counter is the snapshot's serial.
func (v *ringView) anchor() string {
	return strconv.FormatUint(v.Serial, 10) + "," + v.view.Header().Taken.UTC().Format("2006-01-02 15:04:05.000")
}

// parseAnchor reads one of ours: 0 if it is empty.
func parseAnchor(text string) (uint64, error) {
	if text = strings.TrimSpace(text); text == "" {
		return 0, nil
	}
	n, _, ok := strings.Cut(text, ",")
	serial, err := strconv.ParseUint(n, 10, 64)
	if !ok || err != nil || len(text) > maxAnchor {
		return 0, errors.New("anchor")
	}
	return serial, nil
}

// languages are told as a WSUS tells them; texts are never filtered by them.
var languages = [...]struct {
	id          int32
	short, long string
}{{0, "all", "all"}, {1033, "en", "English"}, {1041, "ja", "Japanese"}}

func (s *server) getConfigData(c *call) error {
	anchor := ""
	v, err := s.asked(c, func(path, text string) error {
		if path == "configAnchor" {
			anchor = text
		}
		return nil
	})
	if err != nil {
		return err
	}
	if _, err := parseAnchor(anchor); err != nil {
		return invalid("configAnchor")
	}
	// The order of the real server, not that of the WSDL (microsoft.md 2.1).
	c.begin("GetConfigDataResult")
	c.flag("CatalogOnlySync", false)
	c.flag("LazySync", false)
	c.flag("ServerHostsPsfFiles", false)
	c.int("MaxNumberOfUpdatesPerRequest", batchUpdates)
	c.int("MaxNumberOfDriverSetsPerRequest", 0)
	c.int("MaxNumberOfComputerIdsInRequest", 0)
	c.int("MaxNumberOfPnpHardwareIdsInRequest", 0)
	c.put("NewConfigAnchor", v.anchor())
	c.put("ProtocolVersion", syncProtocol)
	c.begin("LanguageUpdateList")
	for _, l := range languages {
		c.begin("ServerSyncLanguageData")
		c.int("LanguageID", l.id)
		c.put("ShortLanguage", l.short)
		c.put("LongLanguage", l.long)
		c.flag("Enabled", true)
		c.end(1)
	}
	c.end(1)
	c.int("MaxUpdatesPerRequestInGetUpdateDecryptionData", batchUpdates)
	c.end(1)
	return nil
}

// getUpdateDecryptionData: nothing here is encrypted.
func (s *server) getUpdateDecryptionData(c *call) error {
	var f identities
	if err := c.walk(f.take); err != nil {
		return err
	}
	if _, _, err := s.downstream(c, f.cookie); err != nil {
		return err
	}
	c.begin("GetUpdateDecryptionDataResult", "UpdateFileDecryptionData")
	c.end(2)
	return nil
}

// downloadFiles asks an upstream to have files ready: all that are offered are.
func (s *server) downloadFiles(c *call) error {
	var sums [][]byte
	v, err := s.asked(c, func(path, text string) error {
		if path != "fileDigestList/base64Binary" {
			return nil
		}
		b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
		if err != nil || len(b) != 20 || len(sums) >= batchUpdates {
			return invalid("fileDigestList")
		}
		sums = append(sums, b)
		return nil
	})
	if err != nil {
		return err
	}
	for _, b := range sums {
		if !slices.ContainsFunc(v.Files, func(p payloadFile) bool { return string(p.SHA1[:]) == string(b) && v.here(p.Path) }) {
			return &fault{"FileDigestsMissing", strings.ToUpper(hex.EncodeToString(b))}
		}
	}
	return nil
}

// Groups that every WSUS has (MS-WSUSSS 2.2.4).
const (
	groupAll        = "a0a08746-4dbe-4a37-9adf-9e7652c0b421"
	groupUnassigned = "b73ca6ed-5727-47f3-84de-015e03f6a88a"
	noGUID          = "00000000-0000-0000-0000-000000000000"
)

// getDeployments: a server decides for itself what it approves, so there are
// the built-in groups and no deployment.
func (s *server) getDeployments(c *call) error {
	v, err := s.asked(c, ignore)
	if err != nil {
		return err
	}
	c.begin("GetDeploymentsResult")
	c.put("Anchor", v.anchor())
	c.begin("Groups")
	for _, g := range [][3]string{{groupAll, noGUID, "All Computers"}, {groupUnassigned, groupAll, "Unassigned Computers"}} {
		c.begin("ServerSyncTargetGroup")
		c.put("TargetGroupID", g[0])
		c.put("ParentGroupId", g[1])
		c.put("Name", g[2])
		c.flag("IsBuiltin", true)
		c.end(1)
	}
	c.end(1)
	for _, empty := range []string{"Deployments", "DeadDeployments", "HiddenUpdates", "AcceptedEulas"} {
		c.begin(empty)
		c.end(1)
	}
	c.end(1)
	return nil
}

func (s *server) getRelated(c *call) error {
	var list []guid
	v, err := s.asked(c, func(path, text string) error {
		if path != "updateIDs/guid" {
			return nil
		}
		g, err := parseGUID(strings.TrimSpace(text))
		if err != nil || len(list) >= maxFilter {
			return invalid("updateIDs")
		}
		list = append(list, g)
		return nil
	})
	if err != nil {
		return err
	}
	c.begin("GetRelatedRevisionsForUpdatesResult")
	for _, g := range list {
		n, known := v.numbers[g]
		if i, ok := v.latest[n]; known && ok {
			if _, ok := v.documented(i); ok {
				c.identity(v.identityOf(i))
			}
		}
	}
	c.end(1)
	return nil
}
