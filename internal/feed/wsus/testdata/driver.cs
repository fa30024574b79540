// A terminal and a downstream server on Mono's SOAP stack, with proxies that
// its wsdl tool makes of Microsoft's published WSDLs. Prints one line a call.
using System;
using System.Collections.Generic;
using System.Linq;
using System.Net;
using System.Web.Services.Protocols;
using C = WSUS.Client;
using R = WSUS.Reporting;
using S = WSUS.ServerSync;

static class Driver {
  static void Say(string what, params object[] a) { Console.WriteLine(what, a); }

  static string Fault(Action f) {
    try { f(); } catch (SoapException e) { return e.Detail["ErrorCode"] == null ? "?" : e.Detail["ErrorCode"].InnerText; }
    return "none";
  }

  static void Terminal(string b, string category) {
    var c = new C.Client { Url = b + "/ClientWebService/client.asmx" };
    var cfg = c.GetConfig("2.90");
    Say("GetConfig registration={0} plugin={1} properties={2}", cfg.IsRegistrationRequired, cfg.AuthInfo[0].PlugInID, string.Join(",", cfg.Properties.Select(p => p.Name + "=" + p.Value)));
    var sa = new WSUS.SimpleAuth.SimpleAuth { Url = b + "/" + cfg.AuthInfo[0].ServiceUrl };
    var ac = sa.GetAuthorizationCookie("6f1d3c1e-0d3b-4b4a-9f0a-1c2d3e4f5a6b", "Shimin-ka", "pc0001.city.example");
    var auth = new[] { new C.AuthorizationCookie { PlugInId = ac.PlugInId, CookieData = ac.CookieData } };
    var ck = c.GetCookie(auth, null, cfg.LastChange, DateTime.UtcNow, "2.90");
    Say("GetCookie hour={0}", ck.Expiration.ToUniversalTime() > DateTime.UtcNow);
    c.RegisterComputer(ck, new C.ComputerInfo { DnsName = "pc0001.city.example", OSMajorVersion = 10, OSBuildNumber = 22631, OSLocale = "ja-JP", ProcessorArchitecture = "AMD64", BiosReleaseDate = DateTime.UtcNow });
    Say("RegisterComputer ok");
    Guid[] bad;
    var pref = c.StartCategoryScan(new[] { new C.CategoryRelationship { IndexOfAndGroup = 0, CategoryId = new Guid(category) } }, out bad);
    Say("StartCategoryScan preferred={0} errors={1}", pref == null ? 0 : pref.Length, bad == null ? 0 : bad.Length);
    // To the fixed point: everything that is not a leaf counts as installed, as on a machine that has it all.
    var installed = new List<int>(); var other = new List<int>();
    int rounds = 0, pages = 0; bool again = true; string action = "";
    var xml = new Dictionary<int, string>();
    while (again && rounds++ < 200) {
      var s = c.SyncUpdates(ck, new C.SyncUpdateParameters { SkipSoftwareSync = false, InstalledNonLeafUpdateIDs = installed.ToArray(), OtherCachedUpdateIDs = other.ToArray() });
      ck = s.NewCookie; pages++; again = s.Truncated;
      foreach (var u in s.NewUpdates ?? new C.UpdateInfo[0]) {
        xml[u.ID] = u.Xml;
        if (u.Deployment.Action == C.DeploymentAction.Install) action = u.Deployment.Action + " " + u.IsLeaf;
        if (!u.IsLeaf && installed.Count < 400) { installed.Add(u.ID); again = true; } else other.Add(u.ID);
      }
    }
    Say("SyncUpdates revisions={0} install={1}", xml.Count, action);
    var want = xml.Where(x => x.Value.Contains("994987cc-6e38-4236-8e63-caf9c04b5d0b")).Select(x => x.Key).ToArray();
    var ext = c.GetExtendedUpdateInfo(ck, want, new[] { C.XmlUpdateFragmentType.Extended, C.XmlUpdateFragmentType.LocalizedProperties }, new[] { "ja-JP", "ja", "en" }, null, null);
    Say("GetExtendedUpdateInfo fragments={0} files={1}", ext.Updates.Length, ext.FileLocations.Length);
    var file = new WebClient().DownloadData(ext.FileLocations[0].Url);
    var sum = System.Security.Cryptography.SHA1.Create().ComputeHash(file);
    Say("Content bytes={0} sha1={1}", file.Length, sum.SequenceEqual(ext.FileLocations[0].FileDigest));
    var rc = c.RefreshCache(ck, new[] { new C.UpdateIdentity { UpdateID = new Guid("433942af-c579-4917-921b-c580f5ac230b"), RevisionNumber = 501 } });
    Say("RefreshCache results={0} action={1}", rc.Length, rc[0].Deployment.Action);
    var fl = c.GetFileLocations(ck, new[] { ext.FileLocations[0].FileDigest });
    Say("GetFileLocations files={0} same={1}", fl.FileLocations.Length, fl.FileLocations[0].Url == ext.FileLocations[0].Url);
    var rp = new R.WebService { Url = b + "/ReportingWebService/ReportingWebService.asmx" };
    var ev = new R.ReportingEvent {
      BasicData = new R.BasicData { TargetID = new R.ComputerTargetIdentifier { Sid = "6f1d3c1e-0d3b-4b4a-9f0a-1c2d3e4f5a6b" }, EventInstanceID = Guid.NewGuid(), NamespaceID = 1, EventID = 183, SourceID = 101, TimeAtTarget = DateTime.UtcNow, UpdateID = new R.UpdateRevisionIdentifier { UpdateID = new Guid("433942af-c579-4917-921b-c580f5ac230b"), RevisionNumber = 501 } },
      ExtendedData = new R.ExtendedData { OSVersion = new R.DetailedVersion { Major = 10 } }, PrivateData = new R.PrivateData { ComputerDnsName = "pc0001.city.example" } };
    Say("ReportEventBatch {0}", rp.ReportEventBatch(new R.Cookie { Expiration = ck.Expiration, EncryptedData = ck.EncryptedData }, DateTime.UtcNow, new[] { ev }));
    Say("fault forged={0}", Fault(() => c.SyncUpdates(new C.Cookie { Expiration = ck.Expiration, EncryptedData = new byte[64] }, new C.SyncUpdateParameters())));
    Say("fault many={0}", Fault(() => c.SyncUpdates(ck, new C.SyncUpdateParameters { InstalledNonLeafUpdateIDs = Enumerable.Range(1, 401).ToArray() })));
  }

  static void Server(string b, string product, string classification) {
    var d = new S.ServerSyncProxy { Url = b + "/ServerSyncWebService/ServerSyncWebService.asmx" };
    var auth = d.GetAuthConfig();
    Say("GetAuthConfig {0}", auth.AuthInfo[0].PlugInID);
    var da = new WSUS.DssAuth.DssAuthWebService { Url = b + "/" + auth.AuthInfo[0].ServiceUrl };
    var dc = da.GetAuthorizationCookie("wsus01.city.example", "3f2504e0-4f89-11d3-9a0c-0305e82c3301", null);
    var ck = d.GetCookie(new[] { new S.AuthorizationCookie { PlugInId = dc.PlugInId, CookieData = dc.CookieData } }, null, "1.20");
    var gc = d.GetConfigData(ck, null);
    Say("GetConfigData catalogOnly={0} max={1} languages={2}", gc.CatalogOnlySync, gc.MaxNumberOfUpdatesPerRequest, gc.LanguageUpdateList.Length);
    var config = d.GetRevisionIdList(ck, new S.ServerSyncFilter { GetConfig = true });
    int n = 0, bytes = 0;
    for (int i = 0; i < config.NewRevisions.Length; i += 100) {
      var ud = d.GetUpdateData(ck, config.NewRevisions.Skip(i).Take(100).ToArray());
      n += ud.updates.Length; bytes += ud.updates.Sum(u => u.XmlUpdateBlob.Length);
    }
    Say("config listed={0} brought={1} some={2}", config.NewRevisions.Length, n, bytes > n * 100);
    var list = d.GetRevisionIdList(ck, new S.ServerSyncFilter { GetConfig = false, Categories = new[] { new S.IdAndDelta { Id = new Guid(product) } }, Classifications = new[] { new S.IdAndDelta { Id = new Guid(classification) } } });
    var data = d.GetUpdateData(ck, list.NewRevisions);
    Say("updates listed={0} files={1} first={2}", list.NewRevisions.Length, data.fileUrls.Length, list.NewRevisions[0].UpdateID);
    var none = d.GetRevisionIdList(ck, new S.ServerSyncFilter { GetConfig = true, Anchor = config.Anchor });
    Say("nothing new={0}", none.NewRevisions == null ? 0 : none.NewRevisions.Length);
    d.GetUpdateDecryptionData(ck, list.NewRevisions);
    d.DownloadFiles(ck, new[] { data.fileUrls[0].FileDigest });
    var file = new WebClient().DownloadData(data.fileUrls[0].MUUrl);
    Say("Content sha1={0}", System.Security.Cryptography.SHA1.Create().ComputeHash(file).SequenceEqual(data.fileUrls[0].FileDigest));
    var dep = d.GetDeployments(ck, null, list.Anchor);
    Say("GetDeployments groups={0} deployments={1}", dep.Groups.Length, dep.Deployments == null ? 0 : dep.Deployments.Length);
    var rel = d.GetRelatedRevisionsForUpdates(ck, new[] { list.NewRevisions[0].UpdateID });
    Say("GetRelatedRevisionsForUpdates {0}", rel.Length);
    Say("fault missing={0}", Fault(() => d.DownloadFiles(ck, new[] { new byte[20] })));
    Say("fault unknown={0}", Fault(() => d.GetUpdateData(ck, new[] { new S.UpdateIdentity { UpdateID = Guid.NewGuid(), RevisionNumber = 1 } })));
  }

  static int Main(string[] a) {
    if (a[1] == "terminal") Terminal(a[0], a[2]); else Server(a[0], a[2], a[3]);
    return 0;
  }
}
