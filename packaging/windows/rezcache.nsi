; The installer for Windows: for one user, without administrator rights.
;
;   makensis -DVERSION=0.1.0 -DVERSION4=0.1.0.0 -DSOURCE=folder -DOUTFILE=file rezcache.nsi
;   rezcache-VERSION-setup.exe /S         installs without asking
;   uninstall.exe /S [/PURGE]             removes the program; /PURGE: what it has stored too, but never keys

Unicode true
Target amd64-unicode
Name "rezcache"
OutFile "${OUTFILE}"
InstallDir "$LOCALAPPDATA\Programs\rezcache"
RequestExecutionLevel user
; What is made for a test need not be small.
!ifdef FAST
SetCompressor zlib
!else
SetCompressor /SOLID lzma
!endif
SetDateSave off
ManifestDPIAware true
BrandingText "rezcache ${VERSION}"

VIProductVersion "${VERSION4}"
VIAddVersionKey "ProductName" "rezcache"
VIAddVersionKey "FileDescription" "rezcache installer"
VIAddVersionKey "ProductVersion" "${VERSION}"
VIAddVersionKey "FileVersion" "${VERSION}"
VIAddVersionKey "LegalCopyright" "MIT or Apache-2.0"

!include "MUI2.nsh"
!include "FileFunc.nsh"
!include "LogicLib.nsh"
!include "nsDialogs.nsh"

!define KEY "Software\Microsoft\Windows\CurrentVersion\Uninstall\rezcache"
; Where the program keeps things (the crate `directories`).
!define STORED "$LOCALAPPDATA\rezcache"
!define SETTINGS "$APPDATA\rezcache"

!define MUI_WELCOMEPAGE_TITLE "rezcache ${VERSION}"
!define MUI_WELCOMEPAGE_TEXT "What your viewer has fetched once comes from this computer the next time.$\r$\n$\r$\nThis installs rezcache for you alone, changes nothing in your viewer, and starts nothing by itself. You can remove it in Settings > Apps at any time."
!insertmacro MUI_PAGE_WELCOME
!insertmacro MUI_PAGE_INSTFILES
!define MUI_FINISHPAGE_TITLE "rezcache is installed"
!define MUI_FINISHPAGE_TEXT "Start your viewer with rezcache from the start menu. Your viewer's own icon starts it without rezcache, as before."
!define MUI_FINISHPAGE_RUN "$INSTDIR\start-rezcache.cmd"
!define MUI_FINISHPAGE_RUN_TEXT "Start it now"
!define MUI_FINISHPAGE_RUN_NOTCHECKED
!insertmacro MUI_PAGE_FINISH
UninstPage custom un.AskPage un.AskLeave
!insertmacro MUI_UNPAGE_INSTFILES
!insertmacro MUI_LANGUAGE "English"

Var Purge
Var Tick

; A running program cannot be replaced or removed.
!macro NotRunning prefix
Function ${prefix}NotRunning
  ${Do}
    ${IfNot} ${FileExists} "$INSTDIR\rezcache.exe"
      Return
    ${EndIf}
    ClearErrors
    FileOpen $0 "$INSTDIR\rezcache.exe" a
    ${IfNot} ${Errors}
      FileClose $0
      Return
    ${EndIf}
    MessageBox MB_RETRYCANCEL|MB_ICONEXCLAMATION "rezcache is running. Close your viewer and the rezcache window, then try again." /SD IDCANCEL IDRETRY again
    SetErrorLevel 2
    Quit
    again:
  ${Loop}
FunctionEnd
!macroend
!insertmacro NotRunning ""
!insertmacro NotRunning "un."

Section "rezcache"
  Call NotRunning
  SetOutPath "$INSTDIR"
  File "${SOURCE}\rezcache.exe"
  File "${SOURCE}\start-rezcache.cmd"
  File "${SOURCE}\README.txt"
  File "${SOURCE}\rezcache.toml"
  File "${SOURCE}\rezcache.ps1"
  File "${SOURCE}\LICENSE-MIT.txt"
  File "${SOURCE}\LICENSE-APACHE.txt"
  File "${SOURCE}\THIRD-PARTY.txt"
  WriteUninstaller "$INSTDIR\uninstall.exe"
  CreateDirectory "$SMPROGRAMS\rezcache"
  CreateShortcut "$SMPROGRAMS\rezcache\rezcache.lnk" "$INSTDIR\start-rezcache.cmd" "" "$INSTDIR\rezcache.exe"
  CreateShortcut "$SMPROGRAMS\rezcache\Remove rezcache.lnk" "$INSTDIR\uninstall.exe"
  WriteINIStr "$SMPROGRAMS\rezcache\Is it working.url" "InternetShortcut" "URL" "http://127.0.0.1:9079/"
  WriteRegStr HKCU "${KEY}" "DisplayName" "rezcache"
  WriteRegStr HKCU "${KEY}" "DisplayVersion" "${VERSION}"
  WriteRegStr HKCU "${KEY}" "Publisher" "rezcache"
  WriteRegStr HKCU "${KEY}" "InstallLocation" "$INSTDIR"
  WriteRegStr HKCU "${KEY}" "UninstallString" '"$INSTDIR\uninstall.exe"'
  WriteRegStr HKCU "${KEY}" "QuietUninstallString" '"$INSTDIR\uninstall.exe" /S'
  WriteRegDWORD HKCU "${KEY}" "NoModify" 1
  WriteRegDWORD HKCU "${KEY}" "NoRepair" 1
  ${GetSize} "$INSTDIR" "/S=0K" $0 $1 $2
  WriteRegDWORD HKCU "${KEY}" "EstimatedSize" $0
SectionEnd

Function un.onInit
  StrCpy $Purge 0
  ${GetParameters} $0
  ClearErrors
  ${GetOptions} $0 "/PURGE" $1
  ${IfNot} ${Errors}
    StrCpy $Purge 1
  ${EndIf}
FunctionEnd

Function un.AskPage
  !insertmacro MUI_HEADER_TEXT "Remove rezcache" "Your viewer works as before without it."
  nsDialogs::Create 1018
  Pop $0
  ${NSD_CreateLabel} 0 0 100% 24u "The program is removed. What it has stored is left, so that it is there if you install rezcache again."
  Pop $0
  ${NSD_CreateCheckbox} 0 32u 100% 12u "Remove the stored assets, settings and counters too"
  Pop $Tick
  ${If} $Purge == 1
    ${NSD_Check} $Tick
  ${EndIf}
  nsDialogs::Show
FunctionEnd

Function un.AskLeave
  ${NSD_GetState} $Tick $0
  StrCpy $Purge 0
  ${If} $0 == ${BST_CHECKED}
    StrCpy $Purge 1
  ${EndIf}
FunctionEnd

Section "Uninstall"
  Call un.NotRunning
  ; What `rezcache run` wrote into a viewer's own settings.
  nsExec::Exec '"$INSTDIR\rezcache.exe" run --undo'
  Pop $0
  Delete "$INSTDIR\rezcache.exe"
  Delete "$INSTDIR\start-rezcache.cmd"
  Delete "$INSTDIR\README.txt"
  Delete "$INSTDIR\rezcache.toml"
  Delete "$INSTDIR\rezcache.ps1"
  Delete "$INSTDIR\LICENSE-MIT.txt"
  Delete "$INSTDIR\LICENSE-APACHE.txt"
  Delete "$INSTDIR\THIRD-PARTY.txt"
  Delete "$INSTDIR\uninstall.exe"
  ; Only when it is empty: what somebody else put there is not ours.
  RMDir "$INSTDIR"
  Delete "$SMPROGRAMS\rezcache\rezcache.lnk"
  Delete "$SMPROGRAMS\rezcache\Remove rezcache.lnk"
  Delete "$SMPROGRAMS\rezcache\Is it working.url"
  RMDir "$SMPROGRAMS\rezcache"
  DeleteRegKey HKCU "${KEY}"
  ${If} $Purge == 1
    Call un.RemoveStored
  ${EndIf}
SectionEnd

; Everything but keys: a key may be that of a store elsewhere or of a backup, and nothing can be read
; without it. They are set aside while the rest goes.
Function un.RemoveStored
  StrCpy $1 "$LOCALAPPDATA\rezcache-keys"
  FindFirst $2 $3 "${STORED}\data\*.key"
  ${DoWhile} $3 != ""
    CreateDirectory "$1"
    Rename "${STORED}\data\$3" "$1\$3"
    FindNext $2 $3
  ${Loop}
  FindClose $2
  RMDir /r "${STORED}"
  RMDir /r "${SETTINGS}"
  ${If} ${FileExists} "$1\*.key"
    CreateDirectory "${STORED}\data"
    FindFirst $2 $3 "$1\*.key"
    ${DoWhile} $3 != ""
      Rename "$1\$3" "${STORED}\data\$3"
      FindNext $2 $3
    ${Loop}
    FindClose $2
    RMDir "$1"
    MessageBox MB_OK|MB_ICONINFORMATION "The key of a shared cache's store is left in ${STORED}\data. Remove it when nothing is to be read with it any more." /SD IDOK
  ${EndIf}
FunctionEnd
