package mirror

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"slices"
	"strconv"
	"strings"
)

func newDigest() hash.Hash { return sha256.New() }

// codes are the exit codes that mean success: 0, 1641 and 3010 (a restart was
// begun, or is needed), for patches 1642 (does not apply here), and the record's.
func (i ExportItem) codes() string {
	list := []int{0, 1641, 3010}
	if patch(i) == 1 {
		list = append(list, 1642)
	}
	for _, c := range i.Success {
		if !slices.Contains(list, c) {
			list = append(list, c)
		}
	}
	var s []string
	for _, c := range list {
		s = append(s, strconv.Itoa(c))
	}
	return strings.Join(s, " ")
}

// how is the program that takes the file: msiexec /i, msiexec /p, or the file itself.
func (i ExportItem) how() string {
	switch i.Type {
	case "msi", "wix":
		return "i"
	case "msp":
		return "p"
	}
	return "x"
}

func (i ExportItem) args() string {
	switch {
	case i.Silent != "":
		return i.Silent
	case i.how() == "p":
		return "/qn REBOOT=ReallySuppress"
	case i.how() == "i":
		return "/qn /norestart"
	}
	return ""
}

// command is the whole command line for people and other tools.
func (i ExportItem) command(file string) string {
	switch i.how() {
	case "i", "p":
		return fmt.Sprintf(`msiexec.exe /%s "%s" %s`, i.how(), file, i.args())
	}
	return strings.TrimSpace(fmt.Sprintf(`"%s" %s`, file, i.args()))
}

// scriptHead and scriptTail are a cmd.exe script for a computer's start-up
// (group policy: Computer Configuration, Windows Settings, Scripts). A file is
// copied to a folder that only the system and administrators may write, hashed
// there, and run from there, so that nobody can exchange it in between. What
// was done is written under a registry key, once per version.
const (
	scriptHead = `@echo off
rem Hashike: installs what is listed here and has the SHA-256 given here.
rem Made by "hashike export %s". Do not edit: it is written anew.
setlocal EnableExtensions
set "SYS=%%SystemRoot%%\System32"
set "MSIEXEC=%%SystemRoot%%\System32\msiexec.exe"
set "HERE=%%~dp0"
set "KEY=HKLM\SOFTWARE\Hashike\Installed"
set "WORK=%%SystemRoot%%\Temp\Hashike"
set "LOG=%%WORK%%\install.log"
if not exist "%%WORK%%" mkdir "%%WORK%%"
"%%SYS%%\icacls.exe" "%%WORK%%" /inheritance:r /grant:r *S-1-5-18:(OI)(CI)F *S-1-5-32-544:(OI)(CI)F >nul 2>&1
`
	scriptTail = `exit /b 0

:item
"%SYS%\reg.exe" query "%KEY%\%ID%" /v "%VERSION%" >nul 2>&1
if not errorlevel 1 exit /b 0
if not exist "%HERE%%FILE%" goto missing
copy /b /y "%HERE%%FILE%" "%WORK%\%NAME%" >nul
if errorlevel 1 goto missing
"%SYS%\certutil.exe" -hashfile "%WORK%\%NAME%" SHA256 >"%WORK%\sum.txt" 2>&1
"%SYS%\find.exe" "%SUM%" <"%WORK%\sum.txt" >nul 2>&1
if errorlevel 1 goto wrong
if "%HOW%"=="x" goto program
"%MSIEXEC%" /%HOW% "%WORK%\%NAME%" %ARGS%
goto ran
:program
"%WORK%\%NAME%" %ARGS%
:ran
set "RC=%ERRORLEVEL%"
del "%WORK%\%NAME%" >nul 2>&1
for %%c in (%GOOD%) do if "%RC%"=="%%c" goto good
echo %DATE% %TIME% %ID% %VERSION% failed %RC%>>"%LOG%"
exit /b 0
:good
"%SYS%\reg.exe" add "%KEY%\%ID%" /v "%VERSION%" /d "%RC%" /f >nul
echo %DATE% %TIME% %ID% %VERSION% done %RC%>>"%LOG%"
exit /b 0
:missing
echo %DATE% %TIME% %ID% %VERSION% cannot be read>>"%LOG%"
exit /b 0
:wrong
del "%WORK%\%NAME%" >nul 2>&1
echo %DATE% %TIME% %ID% %VERSION% is not the file listed: not run>>"%LOG%"
exit /b 0
`
)

// exportScript is the start-up script. It is ASCII: cmd.exe reads it in
// whatever code page the machine has.
func exportScript(name string, items []ExportItem) string {
	var b strings.Builder
	fmt.Fprintf(&b, scriptHead, name)
	for _, i := range items {
		if !i.Run {
			continue
		}
		b.WriteString("\n")
		for _, kv := range [][2]string{
			{"ID", plain(strings.TrimSuffix(i.ID+"_"+i.Arch+"_"+i.Locale, "_"))}, {"VERSION", plain(i.Version)}, {"FILE", strings.ReplaceAll(i.File, "/", `\`)},
			{"NAME", i.File[strings.LastIndexByte(i.File, '/')+1:]}, {"SUM", i.Digest.Hex()}, {"HOW", i.how()}, {"ARGS", i.args()}, {"GOOD", i.codes()},
		} {
			fmt.Fprintf(&b, "set \"%s=%s\"\n", kv[0], batch(kv[1]))
		}
		b.WriteString("call :item\n")
	}
	b.WriteString("\n" + scriptTail)
	return strings.ReplaceAll(b.String(), "\n", "\r\n")
}

// batch spells a value so that cmd.exe takes it as it is inside set "…": a
// percent sign is doubled. What would end the command is left out: no kind's
// silent arguments need it.
func batch(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > 0x7e || strings.ContainsRune("&|<>^!", r) {
			return -1
		}
		return r
	}, s)
	return strings.ReplaceAll(s, "%", "%%")
}

func exportReadme(name string) string {
	return "\uFEFF" + strings.ReplaceAll(fmt.Sprintf(`Hashike 導入ファイル（更新対象 %[1]s）

  list.csv     ファイル、版、SHA-256、無人導入のコマンドの一覧（資産管理ソフト用）
  install.cmd  コンピューターのスタートアップ スクリプト。ここに書いてあるSHA-256のファイルだけを、版ごとに1回入れます。
               結果はレジストリ HKLM\SOFTWARE\Hashike\Installed と C:\Windows\Temp\Hashike\install.log に残ります。
               入れたことにする終了コード: 0、1641、3010（要再起動）、パッチは1642（この端末には当てはまらない）も。

グループポリシー: ［コンピューターの構成］→［ポリシー］→［Windowsの設定］→［スクリプト］→［スタートアップ］に
install.cmd をUNCパスで登録します。共有は「Domain Computers」に読み取りだけを許してください。
このフォルダは「hashike export」が作り直します。ほかのファイルを置かないでください。

Installers of feed %[1]s. list.csv lists files, versions, SHA-256 and silent commands. install.cmd is a computer
start-up script (group policy, by its UNC path): it installs only files that have the SHA-256 listed, once per version;
results are in HKLM\SOFTWARE\Hashike\Installed and C:\Windows\Temp\Hashike\install.log. Give Domain Computers read
access only. "hashike export" writes this folder anew: put nothing else into it.
`, name), "\n", "\r\n")
}
