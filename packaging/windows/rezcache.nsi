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
  SetOutPath "$INSTDIR\doc"
  File "${SOURCE}\doc\*.md"
  SetOutPath "$INSTDIR"
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
  ${If} $0 != 0
    ; Afterwards nothing here could do it any more.
    MessageBox MB_YESNO|MB_ICONEXCLAMATION "What rezcache wrote into a viewer's list of grids could not be taken out. Remove rezcache all the same? The entries named rezcache-... then stay in the viewer's list, and lead nowhere." /SD IDYES IDYES +2
    Abort
  ${EndIf}
  Delete "$INSTDIR\rezcache.exe"
  Delete "$INSTDIR\start-rezcache.cmd"
  Delete "$INSTDIR\README.txt"
  Delete "$INSTDIR\rezcache.toml"
  Delete "$INSTDIR\rezcache.ps1"
  Delete "$INSTDIR\LICENSE-MIT.txt"
  Delete "$INSTDIR\LICENSE-APACHE.txt"
  Delete "$INSTDIR\THIRD-PARTY.txt"
  Delete "$INSTDIR\doc\*.md"
  RMDir "$INSTDIR\doc"
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
; without it. They stay where they are, and with them the folders that hold them.
Function un.RemoveStored
  Push "${STORED}"
  Call un.Sweep
  Push "${SETTINGS}"
  Call un.Sweep
FunctionEnd

; Deletes what is in the folder on the stack, but for keys, and then the folder if it is empty.
Function un.Sweep
  Exch $R0
  Push $R1
  Push $R2
  Push $R3
  FindFirst $R1 $R2 "$R0\*.*"
  ${DoWhile} $R2 != ""
    ${If} $R2 != "."
    ${AndIf} $R2 != ".."
      ${If} ${FileExists} "$R0\$R2\*.*"
        Push "$R0\$R2"
        Call un.Sweep
      ${Else}
        StrCpy $R3 $R2 "" -4
        ${If} $R3 != ".key"
          Delete "$R0\$R2"
        ${EndIf}
      ${EndIf}
    ${EndIf}
    FindNext $R1 $R2
  ${Loop}
  FindClose $R1
  RMDir "$R0"
  Pop $R3
  Pop $R2
  Pop $R1
  Pop $R0
FunctionEnd
